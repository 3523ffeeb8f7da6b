"""Stream, then train: what a job and the trainer's command line have in common.

The stream is read on the caller's thread; training runs on the engine's, which answers requests in
between. What comes out is trained weights and what was held out; judging them is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adapter_service.adapters import version_key
from adapter_service.connectors.base import Connector
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.engine.engine import Engine, Turn
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import JobCancelledError, SourceError
from adapter_service.jobs.resuming import RunCheckpoint
from adapter_service.samples import Sample
from adapter_service.settings import Settings
from adapter_service.training.dataset import Dataset, Limits, collect, enough_held_out

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.training.loop import Progress, TrainingResult

# Nobody reads counts faster, and making them takes as long as a record.
TELL_SECONDS = 0.5

OpenSource = Callable[[str], Connector]


class Watch(Protocol):
    """Who follows a run: told what happens, asked whether to stop. Called on the run's threads."""

    def streamed(self, counts: Mapping[str, Any]) -> None: ...
    def trained(self, progress: Progress) -> None: ...
    def note(self, message: str) -> None: ...
    def cancelled(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Streamed:
    """`source` says which source it was in the end; `counts` what became of its records."""

    dataset: Dataset
    source: str
    counts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    adapter: Adapter
    result: TrainingResult


def stream(settings: Settings, open_source: OpenSource, engine: Engine, watch: Watch) -> Streamed:
    """Read the run's samples from the configured source.

    The fallback, where one is configured, is taken when the source cannot be read or gives nothing
    to use, never in part; `source` then says so.

    Raises:
        SourceError: of the source, when there is no fallback, or of the fallback.
        JobCancelledError: the watch said so.
    """
    engine.wait_until_ready()
    name, fallback = settings.data.source, settings.data.fallback_source
    try:
        return _read(name, name, settings, open_source, engine, watch)
    except SourceError as error:
        if fallback is None:
            raise
        watch.note(f"source {name!r} failed ({error}); its configured fallback {fallback!r} is read instead")
        return _read(fallback, f"{fallback} (fallback for {name}: {error.code})", settings, open_source, engine, watch)


def train(
    settings: Settings,
    dataset: Dataset,
    engine: Engine,
    watch: Watch,
    *,
    start: AdapterFiles | None,
    checkpoint: Path,
    run_key: str,
    discards_other: bool = False,
) -> Trained:
    """Train on the engine's thread, from `checkpoint` when there is one of this run.

    `start` is the adapter to begin with (a copy of it); without one it begins as the base.
    With `discards_other` a checkpoint of another run is thrown away.

    Raises:
        TrainingError: `checkpoint` is of another run.
        JobCancelledError: the watch said so; what was done is in `checkpoint`.
    """
    kept = RunCheckpoint(checkpoint, run_key, watch.note, discards_other)

    def on_engine(turn: Turn) -> Trained:
        from adapter_service.training.loop import Hooks, begin
        from adapter_service.training.loop import train as run_loop

        state = begin(_first_weights(settings, turn, start), settings.training)
        kept.load(state)
        hooks = Hooks(pause=turn.pause, cancelled=watch.cancelled, report=watch.trained, save=kept.save)
        with kept.saved_when_stopped(state):
            result = run_loop(turn.base, dataset.train, state, settings.training, hooks)
        return Trained(state.adapter, result)

    return engine.run(on_engine)


def run_key(settings: Settings, streamed: Streamed, engine: Engine, parent_key: str | None) -> str:
    """What the run's weights follow from; `parent_key` stands for the adapter that it begins with."""
    base = engine.base
    precision = base.precision.to_dict()
    del precision["reason"]  # has this start's measurement in it
    parameters = {
        "lora": settings.lora.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json"),
        "precision": precision,
        "template": engine.renderer.template_id,
    }
    return version_key(streamed.dataset.samples_hash, parameters, base.identity, parent_key)


def lora_config(settings: Settings) -> LoraConfig:
    """The settings' `lora` section as the layer's configuration."""
    from adapter_service.lora.adapter import LoraConfig

    lora = settings.lora
    targets = lora.target_modules
    return LoraConfig(
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        use_rslora=lora.use_rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
    )


class _WatchedTally(Tally):
    """Looks up from every record, used or not: a stream that gives nothing can be cancelled too."""

    def __init__(self, source: str, watch: Watch, *, max_skipped_fraction: float) -> None:
        super().__init__(source, max_skipped_fraction=max_skipped_fraction)
        self._watch = watch
        self._told_at = float("-inf")

    def accepted(self, language: str | None) -> None:
        super().accepted(language)
        self._look_up()

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        super().skipped(origin, reason, language)
        self._look_up()

    def use(self, sample: Sample) -> None:
        super().use(sample)
        self._look_up()

    def _look_up(self) -> None:
        if self._watch.cancelled():
            raise JobCancelledError("cancelled while streaming")
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self._watch.streamed(self.counts())
            self._told_at = time.monotonic()


def _first_weights(settings: Settings, turn: Turn, start: AdapterFiles | None) -> Adapter:
    from adapter_service.lora.adapter import Adapter
    from adapter_service.lora.folder import read_folder

    if start is not None:  # from the file, not from what serves: that one may be in 16 bits
        return read_folder(start.folder, turn.layers).trainable_copy(settings.lora.dropout).to(turn.base.device)
    return Adapter.fresh(lora_config(settings), turn.layers, seed=settings.training.seed, device=turn.base.device)


def _read(
    name: str, described: str, settings: Settings, open_source: OpenSource, engine: Engine, watch: Watch
) -> Streamed:
    tally = _WatchedTally(name, watch, max_skipped_fraction=settings.data.max_skipped_fraction)
    limits = Limits(
        max_samples=settings.data.max_train_samples,
        max_tokens=min(settings.training.max_seq_length, engine.base.context_tokens),
        max_bytes=settings.data.max_cache_mb << 20,
        max_skipped_fraction=settings.data.max_skipped_fraction,
        holdout_fraction=enough_held_out(
            settings.gate.holdout_fraction, settings.gate.min_holdout_samples, settings.data.max_train_samples
        ),
        max_holdout_samples=settings.gate.max_holdout_samples,
    )

    dataset = collect((sample for _, sample in tallied(open_source(name), tally)), engine.renderer, limits)
    watch.streamed(tally.counts())
    counts = {**tally.counts(), "refused": dataset.refused, "held_out": len(dataset.holdout)}
    for reason in dataset.refusals:
        watch.note(f"cannot be trained on: {reason}")
    if dataset.stopped_by:
        watch.note(f"stopped reading at {dataset.stopped_by}")
    return Streamed(dataset, described, counts)
