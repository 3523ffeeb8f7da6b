"""What a connector is: code that reads one kind of source, record by record, from any place in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from adapter_service.samples import Sample

# A place in a stream, as JSON; only the connector that made it can read it.
Cursor = Mapping[str, Any]


class StreamObserver(Protocol):
    """Is told of each record that gave no sample; what it does about it is its own affair."""

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None: ...


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
    ) -> Iterator[tuple[Cursor, Sample]]: ...
