"""Reading on a thread of its own: in order, no further ahead than wanted, and over when it is left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from contextvars import ContextVar
from itertools import count, islice

import pytest

from adapter_service.connectors import handover, reading_ahead
from adapter_service.connectors.base import Connector, Cursor, StreamObserver
from adapter_service.connectors.handover import handed_over
from adapter_service.connectors.reading_ahead import ReadingAhead
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import SourceUnreachableError, TooManyBadRecordsError
from adapter_service.samples import Message, Sample

TOLD = ContextVar("told", default="nothing")


class Counting(Connector):
    """Samples without end. Knows how many it gave, on which threads, and whether it was closed.

    `before` is called before each with its number.
    """

    def __init__(self, before: Callable[[int], None] = lambda _: None, text: str = "text") -> None:
        self._before = before
        self._text = text
        self.given = 0
        self.threads: set[threading.Thread] = set()
        self.closed = threading.Event()

    def check(self) -> str:
        return "it counts"

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        self.threads.add(threading.current_thread())
        try:
            for number in count(after["number"] if after else 1):
                self._before(number)
                if observer:
                    observer.accepted(None)
                self.given = number
                yield {"number": number}, Sample((Message("assistant", self._text),))
        finally:
            self.closed.set()


def put_all(things: Iterator[int]) -> Generator[int, None, None]:
    """The things, handed over without any limit."""

    def make(put: Callable[[int], None]) -> None:
        for thing in things:
            put(thing)

    return handed_over(make, size_of=lambda _: 1, max_bytes=1 << 20, wanted=lambda: 1 << 20, waiting=lambda: None)


def threads_left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == handover.THREAD_NAME]


def test_everything_comes_in_order_and_the_thread_has_ended() -> None:
    assert list(put_all(iter(range(5000)))) == list(range(5000))
    assert not threads_left()


def test_an_error_comes_after_what_was_read_before_it() -> None:
    def go_away(number: int) -> None:
        if number == 4:
            raise SourceUnreachableError("it went away")

    found: list[int] = []
    with pytest.raises(SourceUnreachableError, match="it went away"):
        found.extend(cursor["number"] for cursor, _ in ReadingAhead(Counting(go_away)).stream())
    # `extend` keeps what came before the error.
    assert found == [1, 2, 3]
    assert not threads_left()


def test_the_thread_has_the_context_of_the_one_who_reads() -> None:
    heard: list[str] = []
    TOLD.set("a trace")
    with closing(ReadingAhead(Counting(lambda _: heard.append(TOLD.get()))).stream()) as pairs:
        next(pairs)
    assert heard[0] == "a trace"


def test_a_stream_that_is_left_closes_its_source_on_the_thread_that_read() -> None:
    source = Counting()
    with closing(ReadingAhead(source).stream()) as pairs:
        assert [cursor["number"] for cursor, _ in islice(pairs, 3)] == [1, 2, 3]
    assert source.closed.is_set()
    assert threading.current_thread() not in source.threads
    assert not threads_left()


def test_no_more_is_read_than_is_wanted() -> None:
    third = threading.Event()
    source = Counting(lambda number: third.set() if number == 3 else None)
    with closing(ReadingAhead(source, wanted=lambda: 3).stream()) as pairs:
        next(pairs)
        assert third.wait(10)
    assert source.given == 3


def test_large_samples_are_read_ahead_one_at_a_time() -> None:
    source = Counting(text="x" * reading_ahead.MAX_AHEAD_BYTES)
    with closing(ReadingAhead(source).stream()) as pairs:
        for number in (1, 2, 3):
            assert next(pairs)[0] == {"number": number}
            assert source.given == number


def test_a_stream_is_left_though_its_source_blocks_and_then_nothing_more_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handover, "LEAVE_SECONDS", 0.01)
    answer = threading.Event()
    source = Counting(lambda number: None if number == 1 else assert_waited(answer))
    with closing(ReadingAhead(source).stream()) as pairs:
        next(pairs)
    (thread,) = source.threads
    assert thread.daemon
    assert not source.closed.is_set()
    answer.set()
    thread.join(10)
    assert source.closed.is_set()
    assert source.given == 2
    assert not threads_left()


def test_who_waits_for_a_silent_source_looks_around_and_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(handover, "LEAVE_SECONDS", 0.01)
    answer = threading.Event()
    looks = iter([None, None, InterruptedError("enough")])

    def look() -> None:
        if (error := next(looks)) is not None:
            raise error

    source = Counting(lambda _: assert_waited(answer))
    with pytest.raises(InterruptedError, match="enough"):
        next(ReadingAhead(source, waiting=look).stream())
    answer.set()
    assert source.closed.wait(10)


def test_a_source_that_only_skips_is_heard_of_while_it_is_read() -> None:
    class Skipping(Counting):
        def stream(
            self, after: Cursor | None = None, observer: StreamObserver | None = None
        ) -> Iterator[tuple[Cursor, Sample]]:
            assert observer is not None
            for number in count():
                observer.skipped(f"record {number}", "broken")
            yield from super().stream(after, observer)

    tally = Tally("corpus", max_skipped_fraction=0.1)
    with pytest.raises(TooManyBadRecordsError, match="20 of the 20 records read are bad"):
        next(tallied(ReadingAhead(Skipping()), tally))
    assert not threads_left()


def test_what_was_read_but_not_used_is_not_counted() -> None:
    fiftieth = threading.Event()
    source = Counting(lambda number: fiftieth.set() if number == 50 else None)
    tally = Tally("corpus", max_skipped_fraction=0)
    stream = tallied(ReadingAhead(source), tally)
    for _ in range(7):
        next(stream)
    assert fiftieth.wait(10)
    assert (tally.read, tally.used) == (7, 7)


def assert_waited(event: threading.Event) -> None:
    assert event.wait(10)
