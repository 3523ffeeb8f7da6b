"""A run whose process is killed again and again ends as one that never was, and repeats an interval at most."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.jobs.bench import toy_records

SAVE_STEPS = 5
OPTIONS = (
    "--num_epochs 4 --per_device_train_batch_size 8 --lora_r 8 --learning_rate 0.01 --warmup_steps 2 "
    f"--max_seq_length 64 --token_budget 64 --save_steps {SAVE_STEPS} --lora_dropout 0.1"
)
# Where each attempt ends, and at which call of what it is killed in there.
DEATHS = [
    ("rendering a sample", 30),
    ("in a micro-step", 31),
    ("before the rename of a checkpoint", 2),
    ("measuring", 1),
]


class Run:
    """The trainer's command line in one folder, attempt by attempt."""

    def __init__(self, folder: Path, base: Path) -> None:
        folder.mkdir()
        self._folder = folder
        source = folder / "pairs.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in toy_records()))
        config = folder / "adapter_config.yaml"
        config.write_text("gate: {holdout_fraction: 0.3, generate_samples: 0}\ndata: {shuffle_buffer: 16}\n")
        sources = folder / "mcp_connectors.yml"
        sources.write_text(f"sources:\n  toy: {{kind: local, path: {source}, format: completion}}\n")
        self._arguments = [
            *("--config", str(config), "--sources", str(sources), "--streaming_source", "toy"),
            *("--model_name_or_path", str(base), "--output_dir", str(folder / "out"), *OPTIONS.split()),
        ]

    def attempt(self, point: str = "measuring", at_call: int = 0, *, resume: bool = False) -> int:
        """Its exit status."""
        more = ["--resume"] if resume else []
        command = [sys.executable, "-m", "tests.jobs.dying", str(self._notes), point, str(at_call)]
        environment = {**os.environ, "ADAPTER_STATE_DIR": str(self._folder / "state")}
        ran = subprocess.run(
            [*command, *self._arguments, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.returncode

    @property
    def _notes(self) -> Path:
        return self._folder / "notes"

    @property
    def steps(self) -> list[int]:
        """Every step that was done, in all attempts."""
        return [int(line.split()[1]) for line in self._notes.read_text().splitlines() if line.startswith("step ")]

    @property
    def rendered(self) -> int:
        return self._notes.read_text().splitlines().count("rendered")

    @property
    def weights(self) -> bytes:
        return (self._folder / "out" / "adapter_model.safetensors").read_bytes()


def test_a_run_that_is_killed_everywhere_ends_with_the_same_bytes_and_repeats_little(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    undisturbed, killed = Run(tmp_path / "undisturbed", tiny_base_folder), Run(tmp_path / "killed", tiny_base_folder)
    assert undisturbed.attempt() == 0
    ends: list[int] = []
    for number, (point, at_call) in enumerate(DEATHS):
        assert killed.attempt(point, at_call, resume=number > 0) == -signal.SIGKILL, point
        ends.append(len(killed.steps))
    (tmp_path / "killed" / "pairs.jsonl").unlink()  # all of it was streamed long ago
    assert killed.attempt(resume=True) == 0
    assert killed.weights == undisturbed.weights
    total = len(undisturbed.steps)
    assert undisturbed.steps == list(range(1, total + 1))
    assert killed.rendered == undisturbed.rendered
    attempts = [killed.steps[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True)]
    assert attempts[0] == []
    for before, after in itertools.pairwise(attempts[1:]):
        assert before[-1] > SAVE_STEPS
        assert before[-1] - SAVE_STEPS < after[0] <= before[-1] + 1
        assert after == list(range(after[0], after[-1] + 1))
    assert attempts[-1][-1] == total
