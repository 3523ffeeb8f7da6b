from __future__ import annotations

import itertools
import json

import pytest

from adapter_service.connectors import shuffle
from adapter_service.connectors.memory import MemoryConnector
from adapter_service.connectors.shuffle import ShuffledConnector
from adapter_service.samples import Message, Sample

SAMPLES = [Sample((Message("assistant", f"text {i}"),)) for i in range(40)]


def order(seed: int, block_samples: int = 10) -> list[int]:
    connector = ShuffledConnector(MemoryConnector(SAMPLES), seed=seed, block_samples=block_samples)
    return [int(sample.completion.split()[1]) for _, sample in connector.stream()]


def test_the_order_is_the_seeds_and_always_the_same() -> None:
    assert order(seed=1) == order(seed=1)
    assert order(seed=1) != order(seed=2)
    assert sorted(order(seed=1)) == list(range(40))


def test_blocks_differ_from_one_another_in_order() -> None:
    first, second = order(seed=1)[:10], order(seed=1)[10:20]
    assert [i - 10 for i in second] != first


def test_a_cursor_is_small_whatever_the_block() -> None:
    connector = ShuffledConnector(MemoryConnector(SAMPLES), seed=1, block_samples=40)
    assert max(len(json.dumps(cursor)) for cursor, _ in connector.stream()) < 100


def test_long_samples_end_a_block_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffle, "MAX_BLOCK_CHARACTERS", 30)
    assert all(abs(number - place) < 5 for place, number in enumerate(order(seed=1, block_samples=40)))


def test_only_one_block_is_read_ahead() -> None:
    read: list[int] = []

    class Counted(MemoryConnector):
        def stream(self, after=None, observer=None):  # type: ignore[no-untyped-def]
            for pair in super().stream(after, observer):
                read.append(1)
                yield pair

    stream = ShuffledConnector(Counted(SAMPLES), seed=1, block_samples=10).stream()
    list(itertools.islice(stream, 10))
    assert len(read) == 10
