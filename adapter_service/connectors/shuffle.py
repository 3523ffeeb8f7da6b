"""A seeded shuffle whose cursor is small: blocks of the stream, each in an order of its own.

A block is read, put into the order that seed and block number give, and yielded; the cursor says
where the block begins and how much of it was yielded. To resume is to read one block again, so no
sample and no state of a random generator is ever stored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from adapter_service.connectors.base import Connector, Cursor, StreamObserver
from adapter_service.samples import Sample

# A block ends here too, so that long samples do not fill the memory.
MAX_BLOCK_CHARACTERS = 16_000_000

Pair = tuple[Cursor, Sample]


class ShuffledConnector(Connector):
    """The samples of another connector, mixed within blocks of `block_samples`."""

    def __init__(self, inner: Connector, *, seed: int, block_samples: int) -> None:
        self._inner = inner
        self._seed = seed
        self._block_samples = block_samples

    def check(self) -> str:
        return self._inner.check()

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        start: Cursor | None = after["start"] if after else None
        first, taken = (after["block"], after["taken"]) if after else (0, 0)
        hearing = _Hearing(is_silent=taken > 0)
        told = _Told(observer, hearing) if observer else None
        pairs = self._inner.stream(start, told)
        for number in count(first):
            block = _next_block(pairs, self._block_samples)
            if not block:
                return
            hearing.is_silent = False
            for i, sample in enumerate(self._ordered(block, number)[taken:], start=taken + 1):
                if i < len(block):
                    yield {"start": start, "block": number, "taken": i}, sample
                else:
                    start, taken = block[-1][0], 0
                    yield {"start": start, "block": number + 1, "taken": 0}, sample

    def _ordered(self, block: list[Pair], number: int) -> list[Sample]:
        samples = [sample for _, sample in block]
        # A generator of its own for each block; a string seeds it through SHA-512, the same everywhere.
        random.Random(f"{self._seed}:{number}").shuffle(samples)  # noqa: S311
        return samples


@dataclass(slots=True)
class _Hearing:
    """Whether the observer has heard already what is being read."""

    is_silent: bool


class _Told:
    """Keeps from the observer what it was told when the block was read for the first time."""

    def __init__(self, observer: StreamObserver, hearing: _Hearing) -> None:
        self._observer = observer
        self._hearing = hearing

    def accepted(self, language: str | None) -> None:
        if not self._hearing.is_silent:
            self._observer.accepted(language)

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        if not self._hearing.is_silent:
            self._observer.skipped(origin, reason, language)

    def part(self, name: str) -> StreamObserver:
        return _Told(self._observer.part(name), self._hearing)


def _next_block(pairs: Iterator[Pair], max_samples: int) -> list[Pair]:
    block: list[Pair] = []
    characters = 0
    for pair in pairs:
        block.append(pair)
        characters += pair[1].characters
        if len(block) == max_samples or characters > MAX_BLOCK_CHARACTERS:
            break
    return block
