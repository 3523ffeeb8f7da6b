"""What recording costs: the same answers with and without it, in turns, over one engine.

Two applications share the engine; one records every answer with its token ids and log-probabilities,
the other does not. Each round asks both the same, and which goes first changes with the round. Beside the
latency stands the processor time of the whole process, which other work on the machine disturbs less.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from rich.console import Console

from adapter_service.api import create_app
from adapter_service.api.episode_log import EpisodeLog
from adapter_service.api.services import Services, build_services
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.settings import RlSettings, StorageSettings, load_settings
from rl.episodes import Episode
from rl.recording import Recorder
from rl.rewards import RewardSettings
from rl.shards import ShardWriter

RESULTS = Path("benchmarks/results/episodes.json")
_ROUNDS = {False: 12, True: 30}
TOKENS = 16
_HANDED_OVER = 2000
_MAX_RATIO = 1.02
_MAX_MICROSECONDS = 100.0
_BODY = {
    "prompt": "Translate to Hindi: Good morning, how are you today?",
    "lang": "hi",
    "adapter": "base",
    "max_new_tokens": TOKENS,
    "min_new_tokens": TOKENS,
}


def run(*, full: bool, console: Console | None = None) -> None:
    """Measure with the configured base, and write the results."""
    console = console or Console()
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings().model_copy(update={"rl": RlSettings()})
        bases = settings.storage.state_dir / "bases"
        bases.mkdir(parents=True, exist_ok=True)
        state = Path(folder)
        (state / "bases").symlink_to(bases, target_is_directory=True)
        services = build_services(settings.model_copy(update={"storage": StorageSettings(state_dir=state)}))
        recording = replace(services, episodes=EpisodeLog(RlSettings(log_generations=True), state / "episodes"))
        services.start()
        recording.episodes.start()
        try:
            services.engine.wait_until_ready()
            rows = _answers(services, recording, console, _ROUNDS[full]) + _handing_over(state / "handed")
        finally:
            recording.episodes.stop(10.0)
            services.stop()
    write_results(RESULTS, rows)
    for row in rows:
        console.print(
            f"{row.measure}: {row.figure:.4g} {row.unit}" + (f" (ratio {row.ratio:.4f})" if row.ratio else "")
        )
    console.print(f"results in {RESULTS}")


def _answers(services: Services, recording: Services, console: Console, rounds: int) -> list[Result]:
    ask: dict[str, Callable[[], Any]] = {
        name: _asker(which, **more)
        for name, which, more in (
            ("without", services, {}),
            ("recorded", recording, {}),
            ("with its tokens", services, {"return_tokens": True}),
        )
    }
    clocks: dict[str, Callable[[], float]] = {"latency": time.perf_counter, "processor time": time.process_time}
    taken: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in ask} for clock in clocks}
    for once in ask.values():
        once()  # caches, and the tokenizer's hash
    for number in range(rounds):
        order = list(ask)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            started = {clock: read() for clock, read in clocks.items()}
            ask[name]()
            taken["latency"][name].append(time.perf_counter() - started["latency"])
            while recording.episodes.recorder.counts.waiting:  # the writing counts as well
                time.sleep(0.001)
            taken["processor time"][name].append(time.process_time() - started["processor time"])
    recording.episodes.recorder.flush(60)
    counts = recording.episodes.recorder.counts
    console.print(f"{counts.recorded} answers recorded, {counts.dropped} dropped, {counts.failed} failed")
    rows = [
        _row(clock, name, of[name], of["without"]) for clock, of in taken.items() for name in ask if name != "without"
    ]
    complete = Result(
        "answers recorded, of those that were to be",
        counts.recorded,
        f"of {rounds + 1}",
        target=rounds + 1,
        met=counts.recorded == rounds + 1,
    )
    return [*rows, complete]


def _row(clock: str, name: str, seconds: list[float], without: list[float]) -> Result:
    """The ratio is the median of the rounds' own: what else the machine does weighs on both of a round."""
    ratio = statistics.median(a / b for a, b in zip(seconds, without, strict=True))
    return Result(
        f"{clock} of an answer of {TOKENS} tokens, {name}",
        statistics.median(seconds) * 1000,
        f"ms, median of {len(seconds)} rounds; ratio and target within a round",
        "the same without",
        statistics.median(without) * 1000,
        ratio,
        _MAX_RATIO,
        ratio <= _MAX_RATIO,
    )


def _asker(services: Services, **more: Any) -> Callable[[], Any]:
    client = TestClient(create_app(services=services), base_url="http://127.0.0.1", client=("127.0.0.1", 50000))

    def ask() -> None:
        response = client.post("/generate-lite", json={**_BODY, **more})
        if response.status_code != 200:
            raise RuntimeError(response.text)

    return ask


def _handing_over(folder: Path) -> list[Result]:
    """How long whoever answers is kept by the recording, while the writer writes."""
    recorder = Recorder(ShardWriter(folder, run_id="bench"), RewardSettings(), capacity=_HANDED_OVER)
    recorder.start()
    episode = Episode(prompt=_BODY["prompt"], output="सुप्रभात " * 8, env_name="b", run_id="b", source="b")  # type: ignore[arg-type]
    seconds = []
    for _ in range(_HANDED_OVER):
        started = time.perf_counter()
        recorder.record(lambda: episode)
        seconds.append(time.perf_counter() - started)
    recorder.stop(60)
    microseconds = statistics.median(seconds) * 1e6
    return [
        Result(
            "handing one episode over", microseconds, f"µs, median of {_HANDED_OVER}", target=_MAX_MICROSECONDS,
            met=microseconds <= _MAX_MICROSECONDS,
        )
    ]  # fmt: skip


if __name__ == "__main__":
    run(full=False)
