"""The kind `memory`: records from a list, and the twin of any source for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from adapter_service.connectors.base import Connector, Cursor, Record, StreamObserver
from adapter_service.connectors.registry import register
from adapter_service.connectors.spec import SourceSpec
from adapter_service.samples import Sample


class MemorySpec(SourceSpec):
    """`items` are records as a file would hold them; one that is not a mapping is a bad record."""

    items: list[Any]


@register("memory", spec=MemorySpec)
class MemoryReader:
    """Reads the records that stand in the configuration itself."""

    def __init__(self, spec: MemorySpec, name: str) -> None:
        self._items = spec.items
        self._name = name

    def check(self) -> str:
        return f"{len(self._items)} record(s) in memory"

    def records(self, after: Cursor | None) -> Iterator[Record]:
        for number in range(after["record"] if after else 0, len(self._items)):
            item, origin = self._items[number], f"{self._name}:{number + 1}"
            cursor = {"record": number + 1}
            if isinstance(item, dict):
                yield Record(cursor, origin, item)
            else:
                yield Record(cursor, origin, None, f"a {type(item).__name__} where an object is wanted")


class MemoryConnector(Connector):
    """Samples from a list, for tests of whatever reads a connector."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def check(self) -> str:
        return f"{len(self._samples)} sample(s) in memory"

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        for number in range(after["record"] if after else 0, len(self._samples)):
            if observer:
                observer.accepted(self._samples[number].language)
            yield {"record": number + 1}, self._samples[number]
