"""What a connector is: code that reads one kind of source, record by record, from any place in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from adapter_service.samples import Sample

# A place in a stream, as JSON; only the connector that made it can read it.
Cursor = Mapping[str, Any]

# Reasons for skipping a record that say nothing against it.
OTHER_LANGUAGE = "other language"
NO_LANGUAGE = "no language"
UNKNOWN_FORMAT = "a file of no known format"
FILTER_REASONS = frozenset({OTHER_LANGUAGE, NO_LANGUAGE, UNKNOWN_FORMAT})


class StreamObserver(Protocol):
    """Is told of each record once, in the order of the source; what it does about it is its own affair."""

    def accepted(self, language: str | None) -> None:
        """A record gave a sample, which the stream yields now or, where it shuffles, later."""
        ...

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        """A record gave no sample; `reason` is one of few, so that it can be counted."""
        ...

    def part(self, name: str) -> StreamObserver:
        """Who is told of the records of one source where a stream is made of several."""
        ...


class Connector(Protocol):
    """One configured source.

    The contract, held by `tests/connectors/test_contract.py` for every kind: `stream(after=c)`
    yields exactly what follows the pair whose cursor is `c`; a cursor survives `json.dumps`;
    memory does not grow with the size of the source; a record that cannot be read is given to
    the observer, and the stream goes on; a source that cannot be read raises a `SourceError`.
    """

    def check(self) -> str:
        """Read as little as shows that the source is there, and say what was found in one line."""
        ...

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        """What follows `after`, each sample with the place behind it; a cursor is not changed once it is given.

        Run on another thread than the one that made the connector, and checks it, and ahead of whoever uses the
        samples.
        """
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a source before anything is made of it, or the fault that stands in its place.

    `cursor` is the place just after it; `origin` says to people where it lies.
    """

    cursor: Cursor
    origin: str
    fields: Mapping[str, Any] | None
    fault: str = ""


class RecordReader(Protocol):
    """What a kind registers: the two methods that know where the records lie.

    Mapping, language filter and shuffling are the same for every kind and are put around it by
    `registry.open_source`.
    """

    def check(self) -> str: ...

    def records(self, after: Cursor | None) -> Iterator[Record]: ...
