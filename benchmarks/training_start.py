"""How soon training is under way: a request to a service that has the base loaded, beside a script that loads it.

Ours is timed from `POST /adapter/train-lite` until the service says that the first optimizer step is done; it reads
and renders the rows' text meanwhile. The script, Trainer with PEFT as tuned in `training.py`, is timed from the start
of its process to the end of its first step; it is given token ids. They take turns.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from adapter_service.measuring.provenance import Result, write_results
from adapter_service.measuring.service_client import ServiceClient
from adapter_service.rendering import RenderedSample
from benchmarks.serving import keep_bases, serving, until
from benchmarks.training import BASES, Child, label, prepare
from benchmarks.training_run import HF_TUNED, SEQUENCES_PER_STEP

RESULTS = Path("benchmarks/results/training_start.json")
_ROUNDS = {False: 2, True: 3}
ROWS = 128
RATIO = 0.1
_POLL_SECONDS = 0.02
_BASE = BASES["smollm2"]
_ONE_STEP = {"rounds": 1, "steps_per_round": 1, "brief_steps_per_round": 1}
_JOB = {"adapter": "start", "per_device_train_batch_size": SEQUENCES_PER_STEP}


def run(*, full: bool, console: Console | None = None) -> None:
    """Measure in turns and write the medians."""
    console = console or Console()
    with tempfile.TemporaryDirectory(prefix="training-start-") as made:
        folder, state = Path(made) / "script", Path(made) / "service"
        folder.mkdir()
        state.mkdir()
        rows = prepare(folder, _BASE, _ONE_STEP, rows=ROWS)
        keep_bases(state)
        _write_source(state, folder, rows)
        environment = {"ADAPTER_SOURCES": str(state / "sources.yml"), "ADAPTER_DATA__SOURCE": "rows"}
        with serving(state, base=_BASE.name, environment=environment) as (
            _,
            client,
        ):
            taken = []
            for number in range(_ROUNDS[full]):
                taken.append((_by_request(client), _by_script(folder)))
                console.print(
                    f"round {number + 1} of {_ROUNDS[full]}: {taken[-1][0]:.2f} s, script {taken[-1][1]:.2f} s"
                )
    write_results(RESULTS, [row_of(taken)])


def _write_source(state: Path, folder: Path, rows: Sequence[RenderedSample]) -> None:
    """The rows as text that the service reads from a source."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(json.loads((folder / "job.json").read_text())["base_folder"])
    lines = (
        {
            "prompt": tokenizer.decode(row.ids[: row.completion_start]),
            "completion": tokenizer.decode(row.ids[row.completion_start :]),
        }
        for row in rows
    )
    (state / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (state / "sources.yml").write_text("sources: {rows: {kind: local, path: rows.jsonl, format: completion}}\n")


def _by_request(client: ServiceClient) -> float:
    """Seconds from the request to the end of the first step; the job is cancelled then."""
    started = time.perf_counter()
    job_id = client.ask("POST", "/adapter/train-lite", _JOB)["job_id"]
    until(lambda: _made_a_step(client, job_id), every=_POLL_SECONDS)
    seconds = time.perf_counter() - started
    client.ask("POST", f"/adapter/cancel/{job_id}")
    until(lambda: client.ask("GET", f"/adapter/status/{job_id}")["finished_at"])
    return seconds


def _made_a_step(client: ServiceClient, job_id: str) -> bool:
    status = client.ask("GET", f"/adapter/status/{job_id}")
    if status["finished_at"] is not None:
        raise SystemExit(f"the job is {status['status']} before its first step: {status['message']}")
    return int(status["step"]) >= 1


def _by_script(folder: Path) -> float:
    """Seconds from the start of the script's process to the end of its first step."""
    started = time.perf_counter()
    with Child.started(HF_TUNED, folder) as script:
        script.said()
        script.turn()
        return time.perf_counter() - started


def row_of(taken: Sequence[tuple[float, float]]) -> Result:
    """`taken` are (request, script) in seconds, round by round."""
    ratio = median(request / script for request, script in taken)
    requests, scripts = zip(*taken, strict=True)
    return Result(
        f"{_BASE.title}: first step after train-lite on a resident base", median(requests), "s",
        f"{label(HF_TUNED, _BASE)}, from the start of its process", median(scripts), ratio, RATIO, ratio <= RATIO,
    )  # fmt: skip


if __name__ == "__main__":
    run(full=False)
