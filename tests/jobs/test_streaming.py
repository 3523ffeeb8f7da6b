"""A stream that is left and taken up again: the same samples and counts, whatever became of its source."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_service.connectors import handover, reading_ahead
from adapter_service.connectors.base import Connector, Cursor, StreamObserver
from adapter_service.connectors.opening import source_opener
from adapter_service.engine.engine import Engine
from adapter_service.errors import JobCancelledError, SourceError, SourceUnreachableError, TrainingError
from adapter_service.jobs.streaming import Streamed, stream
from adapter_service.samples import Sample
from adapter_service.settings import Settings, SourceEntry
from adapter_service.training import spool
from tests.jobs.bench import Record, local_source, toy_records, toy_settings
from tests.jobs.test_learning import Recorder

BROKEN: list[Record] = [{"prompt": "no completion"}, {"prompt": 7, "completion": "seven"}]


@pytest.fixture(autouse=True)
def kept_at_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "KEEP_SECONDS", 0.0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Good records with bad ones among them, behind a shuffle."""
    records = toy_records()
    records[10:10] = BROKEN
    records[40:40] = BROKEN
    return settings_for(local_source("toy", tmp_path, records))


def settings_for(*sources: SourceEntry, **data: Any) -> Settings:
    return toy_settings(*sources, data={"shuffle_buffer": 16, "source": "toy", **data})


def read(engine: Engine, settings: Settings, folder: Path, watch: Recorder | None = None, **options: Any) -> Streamed:
    return stream(settings, source_opener(settings), engine, watch or Recorder(), folder, **options)


def leave_after(engine: Engine, settings: Settings, folder: Path, looks: int) -> None:
    """Stop the stream when the watch is asked for the `looks`-th time."""
    with pytest.raises(JobCancelledError):
        read(engine, settings, folder, Recorder(cancel_at=looks))


def same(one: Streamed, other: Streamed) -> bool:
    return (one.dataset, one.source, one.counts) == (other.dataset, other.source, other.counts)


@pytest.mark.parametrize("looks", [[25], [100], [60, 40, 20], [140, 10]])
def test_a_stream_that_is_left_goes_on_with_the_same_samples_and_counts(
    engine: Engine, settings: Settings, tmp_path: Path, looks: list[int]
) -> None:
    whole = read(engine, settings, tmp_path / "whole")
    for number in looks:
        leave_after(engine, settings, tmp_path / "left", number)
    watch = Recorder()
    resumed = read(engine, settings, tmp_path / "left", watch)
    assert same(resumed, whole)
    assert resumed.dataset.samples_hash == whole.dataset.samples_hash
    assert (whole.counts["read"], whole.counts["skipped"]) == (84, 4)
    assert watch.notes[0].endswith("samples were streamed before: going on from there")
    assert 0 < resumed.samples_now < whole.samples_now


def test_a_stream_that_ended_needs_its_source_no_more(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    whole = read(engine, settings, tmp_path / "stream")
    (tmp_path / "toy.jsonl").unlink()
    watch = Recorder()
    again = read(engine, settings, tmp_path / "stream", watch)
    assert same(again, whole)
    assert (watch.notes, again.samples_now) == (["80 samples were streamed before: all of it"], 0)


def test_a_stream_that_reached_its_limit_has_ended(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    few = settings.model_copy(update={"data": settings.data.model_copy(update={"max_train_samples": 7})})
    whole = read(engine, few, tmp_path / "stream")
    (tmp_path / "toy.jsonl").unlink()
    assert same(read(engine, few, tmp_path / "stream"), whole)


def test_a_source_that_changed_meanwhile_is_read_from_its_beginning(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    leave_after(engine, settings, tmp_path / "stream", 60)
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in toy_records(per_letter=15)))
    watch = Recorder()
    resumed = read(engine, settings, tmp_path / "stream", watch)
    assert resumed.counts["read"] == 60
    assert same(resumed, read(engine, settings, tmp_path / "fresh"))
    assert "the stream cannot go on where it was left" in watch.notes[1]
    assert "streaming from the beginning" in watch.notes[1]


@pytest.mark.parametrize(
    "changed",
    [{"training": {"seed": 5}}, {"data": {"shuffle_buffer": 8}}, {"gate": {"holdout_fraction": 0.4}}],
)
def test_what_was_streamed_under_other_settings_is_not_gone_on_from(
    engine: Engine, settings: Settings, tmp_path: Path, changed: dict[str, dict[str, Any]]
) -> None:
    leave_after(engine, settings, tmp_path / "stream", 60)
    sections = {name: getattr(settings, name).model_copy(update=values) for name, values in changed.items()}
    other = settings.model_copy(update=sections)
    with pytest.raises(TrainingError, match="of a run with another source, seed or base, or other limits"):
        read(engine, other, tmp_path / "stream")
    watch = Recorder()
    assert same(
        read(engine, other, tmp_path / "stream", watch, discards_other=True), read(engine, other, tmp_path / "fresh")
    )
    assert "the source or the settings changed" in watch.notes[0]


def test_another_learning_rate_streams_the_same(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    whole = read(engine, settings, tmp_path / "stream")
    training = settings.training.model_copy(update={"learning_rate": 0.5})
    assert same(read(engine, settings.model_copy(update={"training": training}), tmp_path / "stream"), whole)


class Failing(Connector):
    """A source that goes away after some samples, for ever."""

    def __init__(self, inner: Connector, after: int) -> None:
        self._inner = inner
        self._after = after

    def check(self) -> str:
        return "there, for now"

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        for number, pair in enumerate(self._inner.stream(after, observer)):
            if number == self._after:
                raise SourceUnreachableError("it went away")
            yield pair


class Counted(Connector):
    """Counts what is read of another source, and whether that was closed."""

    def __init__(self, inner: Connector) -> None:
        self._inner = inner
        self.given = 0
        self.is_closed = False

    def check(self) -> str:
        return self._inner.check()

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        try:
            for pair in self._inner.stream(after, observer):
                self.given += 1
                yield pair
        finally:
            self.is_closed = True


@pytest.mark.parametrize("max_train_samples", [1, 7, 40])
def test_no_sample_is_read_ahead_that_is_not_used(
    engine: Engine, settings: Settings, tmp_path: Path, max_train_samples: int
) -> None:
    few = settings.model_copy(
        update={"data": settings.data.model_copy(update={"max_train_samples": max_train_samples})}
    )
    source = Counted(source_opener(few)("toy"))
    found = stream(few, lambda _: source, engine, Recorder(), tmp_path / "stream")
    assert len(found.dataset.train) == max_train_samples
    assert found.counts["used"] == source.given == found.dataset.seen
    assert source.is_closed


def test_a_source_of_samples_that_cannot_be_trained_on_is_closed_before_its_fallback_is_read(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_ahead, "MAX_AHEAD_BYTES", 1)  # or it is read to its end by then
    long: list[Record] = [{"prompt": f"{number}", "completion": "long " * 200} for number in range(60)]
    sources = (local_source("toy", tmp_path, long), local_source("other", tmp_path, toy_records()))
    both = settings_for(*sources, fallback_source="other", shuffle_buffer=0)
    opened = {name: Counted(source_opener(both)(name)) for name in ("toy", "other")}
    closed_when_opened = []

    def open_source(name: str) -> Connector:
        closed_when_opened.append(opened["toy"].is_closed)
        return opened[name]

    found = stream(both, open_source, engine, Recorder(), tmp_path / "stream")
    assert found.source.startswith("other (fallback for toy: ")
    assert closed_when_opened == [False, True]
    assert found.counts["used"] == 80


def test_a_source_that_keeps_silent_can_be_cancelled(
    engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(handover, "LEAVE_SECONDS", 0.01)
    answer = threading.Event()

    class Silent(Counted):
        def stream(
            self, after: Cursor | None = None, observer: StreamObserver | None = None
        ) -> Iterator[tuple[Cursor, Sample]]:
            assert answer.wait(10)
            yield from super().stream(after, observer)

    source = Silent(source_opener(settings)("toy"))
    with pytest.raises(JobCancelledError, match="cancelled while streaming"):
        stream(settings, lambda _: source, engine, Recorder(cancel_at=3), tmp_path / "stream")
    assert source.given == 0
    answer.set()


def test_a_fallback_is_gone_on_from_and_has_nothing_of_the_source_in_it(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    other = local_source("other", tmp_path, toy_records(per_letter=10))
    both = settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"fallback_source": "other"}),
            "sources": {**settings.sources, "other": other},
        }
    )

    def opener(name: str) -> Connector:
        found = source_opener(both)(name)
        return Failing(found, 30) if name == "toy" else found

    def read_both(folder: Path, watch: Recorder) -> Streamed:
        return stream(both, opener, engine, watch, folder)

    whole = read_both(tmp_path / "whole", Recorder())
    assert whole.counts["read"] == 40
    with pytest.raises(JobCancelledError):
        read_both(tmp_path / "left", Recorder(cancel_at=110))
    watch = Recorder()
    resumed = read_both(tmp_path / "left", watch)
    assert same(resumed, whole)
    assert resumed.source == "other (fallback for toy: source_unreachable)"
    assert watch.notes[0].endswith("streamed before: going on from there")


def test_a_source_that_went_away_for_good_fails_the_resumed_run(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    leave_after(engine, settings, tmp_path / "stream", 60)
    (tmp_path / "toy.jsonl").unlink()
    with pytest.raises(SourceError):
        read(engine, settings, tmp_path / "stream")


def test_a_mix_that_is_left_goes_on_with_the_counts_of_each_of_its_sources(engine: Engine, tmp_path: Path) -> None:
    records = toy_records()
    parts = {
        "one": local_source("one", tmp_path, [*records[:30], BROKEN[0], *records[30:40]]),
        "two": local_source("two", tmp_path, records[40:]),
    }
    mix = SourceEntry(name="toy", kind="mix", options={"sources": {"one": 3, "two": 1}}, parts=parts)
    settings = settings_for(mix, *parts.values())
    whole = read(engine, settings, tmp_path / "whole")
    for looks in (60, 40, 20):
        leave_after(engine, settings, tmp_path / "left", looks)
    assert same(read(engine, settings, tmp_path / "left"), whole)
    assert {name: (of["read"], of["used"]) for name, of in whole.counts["sources"].items()} == {
        "one": (41, 40),
        "two": (40, 40),
    }
    assert whole.counts["sources"]["one"]["reasons"] == {"no field 'completion'": 1}
