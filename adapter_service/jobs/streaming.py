"""Read a run's samples from its source: what a job and the trainer's command line have in common.

What was read is kept in the run's folder as it comes. A run that is started again goes on at the place
where the stream was left, and one whose stream had ended needs its source no more.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adapter_service.connectors.base import Connector
from adapter_service.connectors.reading_ahead import ReadingAhead
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.engine.engine import Engine
from adapter_service.errors import JobCancelledError, SourceError, SourceFormatError
from adapter_service.samples import Sample
from adapter_service.settings import Settings
from adapter_service.training.dataset import Dataset, Limits, collect, enough_held_out
from adapter_service.training.spool import Place, Spool

if TYPE_CHECKING:
    from adapter_service.training.progress import Progress

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
    """`source` says which source it was in the end; `counts` what became of its records.

    Of them `samples_now` came in this attempt, in so many `seconds`.
    """

    dataset: Dataset
    source: str
    counts: Mapping[str, Any]
    samples_now: int
    seconds: float


def stream(
    settings: Settings,
    open_source: OpenSource,
    engine: Engine,
    watch: Watch,
    folder: Path,
    *,
    discards_other: bool = False,
) -> Streamed:
    """Read the run's samples from the configured source, or take them from `folder`, as far as they are there.

    The fallback, where one is configured, is taken when the source cannot be read or gives nothing
    to use, never in part; `source` then says so. With `discards_other` samples of another stream in
    `folder` are thrown away.

    Raises:
        SourceError: of the source, when there is no fallback, or of the fallback.
        TrainingError: what lies in `folder` is of another stream.
        JobCancelledError: the watch said so.
    """
    engine.wait_until_ready()
    spool = Spool(folder, _stream_key(settings, engine), note=watch.note)
    reading = _Reading(settings, open_source, engine, watch, spool)
    name, fallback = settings.data.source, settings.data.fallback_source
    found = spool.restore(discards_other=discards_other)
    if found is not None and found[1].source != name:
        return reading.read(found[1].source, found[1].described, found)
    try:
        return reading.read(name, name, found)
    except SourceError as error:
        if fallback is None:
            raise
        watch.note(f"source {name!r} failed ({error}); its configured fallback {fallback!r} is read instead")
        spool.discard()
        return reading.read(fallback, f"{fallback} (fallback for {name}: {error.code})", None)


class _Reading:
    """One attempt at a run's stream."""

    def __init__(self, settings: Settings, open_source: OpenSource, engine: Engine, watch: Watch, spool: Spool) -> None:
        self._settings = settings
        self._open_source = open_source
        self._engine = engine
        self._watch = watch
        self._spool = spool
        self._limits = _limits(settings, engine)
        self._has_begun = False

    def read(self, name: str, described: str, found: tuple[Dataset, Place] | None) -> Streamed:
        """Read what is not yet in `found`; where its place is no longer there, everything."""
        try:
            return self._read(name, described, found)
        except SourceFormatError as error:
            if found is None or self._has_begun:
                raise
            self._watch.note(f"the stream cannot go on where it was left ({error}); streaming from the beginning")
            self._spool.discard()
            return self._read(name, described, None)

    def _read(self, name: str, described: str, found: tuple[Dataset, Place] | None) -> Streamed:
        tally = _WatchedTally(name, self._watch, max_skipped_fraction=self._settings.data.max_skipped_fraction)
        dataset, place = found or (Dataset(), Place(name, described, None, tally.counts()))
        tally.go_on_from(place.counts)
        used_before, started = tally.used, time.monotonic()
        if found is not None:
            went_on = "all of it" if place.ended else "going on from there"
            self._watch.note(f"{tally.used} samples were streamed before: {went_on}")
        if not place.ended:
            with closing(self._samples(tally, dataset, place)) as samples:
                collect(samples, self._engine.renderer, self._limits, into=dataset)
            self._spool.keep(dataset, Place(name, described, None, tally.counts(), ended=True))
            self._tell_end(dataset)
        self._watch.streamed(tally.counts())
        counts = {**tally.counts(), "refused": dataset.refused, "held_out": len(dataset.holdout)}
        return Streamed(dataset, described, counts, tally.used - used_before, time.monotonic() - started)

    def _samples(self, tally: _WatchedTally, dataset: Dataset, place: Place) -> Generator[Sample, None, None]:
        """What follows `place`; whoever asks for a sample has put the one before it into `dataset`."""
        source = ReadingAhead(
            self._open_source(place.source),
            wanted=lambda: self._limits.max_samples - len(dataset.train),
            waiting=tally.look_up,
        )
        for cursor, sample in tallied(source, tally, place.cursor):
            self._has_begun = True
            yield sample
            if self._spool.is_due():
                self._spool.keep(dataset, Place(place.source, place.described, dict(cursor), tally.counts()))

    def _tell_end(self, dataset: Dataset) -> None:
        for reason in dataset.refusals:
            self._watch.note(f"cannot be trained on: {reason}")
        if dataset.stopped_by:
            self._watch.note(f"stopped reading at {dataset.stopped_by}")


class _WatchedTally(Tally):
    """Looks up from every record, used or not, and while none comes: such a stream can be cancelled too."""

    def __init__(self, source: str, watch: Watch, *, max_skipped_fraction: float) -> None:
        super().__init__(source, max_skipped_fraction=max_skipped_fraction)
        self._watch = watch
        self._told_at = float("-inf")

    def accepted(self, language: str | None) -> None:
        super().accepted(language)
        self.look_up()

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        super().skipped(origin, reason, language)
        self.look_up()

    def use(self, sample: Sample) -> None:
        super().use(sample)
        self.look_up()

    def look_up(self) -> None:
        """Tell the watch how far it is, and let it end the stream."""
        if self._watch.cancelled():
            raise JobCancelledError("cancelled while streaming")
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self._watch.streamed(self.counts())
            self._told_at = time.monotonic()


def _limits(settings: Settings, engine: Engine) -> Limits:
    return Limits(
        max_samples=settings.data.max_train_samples,
        max_tokens=min(settings.training.max_seq_length, engine.base.context_tokens),
        max_bytes=settings.data.max_cache_mb << 20,
        max_skipped_fraction=settings.data.max_skipped_fraction,
        holdout_fraction=enough_held_out(
            settings.gate.holdout_fraction, settings.gate.min_holdout_samples, settings.data.max_train_samples
        ),
        max_holdout_samples=settings.gate.max_holdout_samples,
    )


def _stream_key(settings: Settings, engine: Engine) -> str:
    """What the streamed samples follow from; where a source is read is part of it, and of a mix its parts."""
    data, gate = settings.data, settings.gate
    made_of = {
        "data": data.model_dump(mode="json"),
        "sources": _described(settings, {data.source, data.fallback_source}),
        "seed": settings.training.seed,
        "max_seq_length": settings.training.max_seq_length,
        "holdout": [gate.holdout_fraction, gate.max_holdout_samples, gate.min_holdout_samples],
        "base": engine.base.identity,
        "template": engine.renderer.template_id,
    }
    # Addresses and keys may be in it, so it is kept as a hash alone.
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()


def _described(settings: Settings, names: set[str | None]) -> dict[str, Any]:
    """Kind and options of the configured ones among `names`, and of the sources that those name."""
    described: dict[str, Any] = {}
    to_do = [name for name in names if name is not None]
    while to_do:
        name = to_do.pop()
        entry = settings.sources.get(name)
        if entry is not None and name not in described:
            described[name] = [entry.kind, dict(entry.options)]
            to_do += [part for part in entry.options.get("sources") or () if isinstance(part, str)]
    return described
