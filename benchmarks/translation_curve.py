"""How translation gets better with training time: chrF on held-out pairs, per language, along one run.

The run is the sample recipe made longer: the same base, rate and step, more epochs. At each of its
marks the adapter as it is translates the same 100 held-out pairs. Minutes are processor time of the
thread that trains, without those translations and without what else the machine does: on a quiet
machine, those of the clock. `quick` is a tenth of it, to see that it works.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from adapter_service.adapter_names import BASE
from adapter_service.connectors.opening import source_opener
from adapter_service.engine.engine import Engine
from adapter_service.engine.loading import base_loader
from adapter_service.engine.turn import Turn
from adapter_service.jobs.learning import lora_config
from adapter_service.jobs.streaming import stream
from adapter_service.jobs.train_request import TrainRequest, settings_for
from adapter_service.measuring.evaluation import Evaluation, choose_pairs, evaluate
from adapter_service.measuring.evaluation_run import translations
from adapter_service.measuring.holdout import split_source
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.settings import Settings, load_settings

RESULTS = Path("benchmarks/results/translation_curve.json")
MARKS = 6
_FULL: dict[str, Any] = {"max_train_samples": 14_000, "num_epochs": 2}
_QUICK: dict[str, Any] = {"max_train_samples": 1_400, "num_epochs": 1}


def run(*, full: bool, console: Console | None = None) -> None:
    """Train once and write the curve."""
    console = console or Console()
    settings = load_settings()
    request = TrainRequest(adapter="curve", source="multilingual_corpus", **(_FULL if full else _QUICK))
    settings = settings_for(request, settings)
    engine = Engine(base_loader(settings))
    engine.start()
    try:
        with TemporaryDirectory() as folder:
            streamed = stream(settings, source_opener(settings), engine, _Silent(console), Path(folder))
        engine.run(lambda turn: _measure(turn, settings, streamed.dataset.train, console))
    finally:
        engine.stop()
    console.print(f"curve in {RESULTS}")


def _measure(turn: Turn, settings: Settings, samples: list[Any], console: Console) -> None:
    """Train, and at every mark write the curve as far as it is known: an hour's run may be stopped."""
    from adapter_service.lora.adapter import Adapter
    from adapter_service.training.batching import planned_steps
    from adapter_service.training.loop import Hooks, train
    from adapter_service.training.state import TrainingState, begin

    held_out, rest = split_source(settings, settings.data.source)
    pairs = choose_pairs(held_out)
    total = planned_steps(len(samples), settings.training)
    training = settings.training.model_copy(update={"save_steps": -(-total // MARKS)})
    adapter = Adapter.fresh(lora_config(settings), turn.layers, seed=training.seed, device=turn.base.device)
    rows: list[Result] = []
    evaluating = 0.0
    started = time.thread_time()

    def mark(state: TrainingState) -> None:
        nonlocal evaluating
        paused_at = time.thread_time()
        minutes = (paused_at - started - evaluating) / 60
        scored = _evaluate(turn, settings, state.adapter, pairs, rest)
        moment = f"{minutes:.1f} min, {state.totals.samples} samples"
        rows.extend(_rows(moment, scored))
        write_results(RESULTS, rows)
        console.print(f"{moment}: chrF {scored.total.chrf:.1f}, right {scored.total.ok}", soft_wrap=True)
        evaluating += time.thread_time() - paused_at

    state = begin(adapter, training)
    train(turn.base, samples, state, training, Hooks(pause=turn.pause, save=mark))
    mark(state)


def _evaluate(turn: Turn, settings: Settings, adapter: Any, pairs: list[Any], rest: list[Any]) -> Evaluation:
    serving = adapter.frozen_copy(turn.base.adapter_dtype)

    def generate(prompts: list[str], name: str) -> list[str]:
        if name == BASE:  # its answers do not change along the run; the smoke results have them
            return [""] * len(prompts)
        return translations(turn, settings, prompts, serving)

    return evaluate(pairs, generate, adapter="curve", training_pairs=rest)


def _rows(moment: str, scored: Evaluation) -> list[Result]:
    at = f"after {moment}"
    total = scored.total
    return [
        Result(f"right language and script, {at}", total.ok, f"of {total.pairs}"),
        Result(f"chrF all, {at}", total.chrf, "0..100", "nearest training sentence", total.retrieval_chrf),
        *(Result(f"chrF {tag}, {at}", score.chrf, "0..100") for tag, score in scored.languages.items()),
    ]


class _Silent:
    """Follows the stream without a word, but for what has gone another way."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def streamed(self, counts: Any) -> None:
        """Nothing to say."""

    def trained(self, progress: Any) -> None:
        """The marks say it."""

    def note(self, message: str) -> None:
        self._console.print(message, markup=False)

    def cancelled(self) -> bool:
        return False
