from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from adapter_service.connectors.ranges import MAX_RANGE_BYTES, MIN_RANGE_BYTES, Reading
from tests.connectors.conftest import open_kind
from tests.connectors.server import FileServer


def ends_of_ranges(reading: Reading, total: int) -> list[int]:
    ends = []
    while reading.offset < total:
        reading.offset += reading.asked_bytes
        ends.append(reading.offset)
    return ends


def test_a_reading_that_is_left_anywhere_has_fetched_few_per_cent_in_vain() -> None:
    ends = ends_of_ranges(Reading(0), 300_000_000)
    for begin, end in pairwise(ends):
        assert end - begin <= max(begin / 16, MIN_RANGE_BYTES)


def test_a_reading_that_goes_on_needs_few_requests() -> None:
    assert len(ends_of_ranges(Reading(0), 100_000_000)) < 110
    assert Reading(0, stop=None).asked_bytes == MIN_RANGE_BYTES


def test_ranges_may_begin_longer() -> None:
    assert ends_of_ranges(Reading(0, least_bytes=500_000), 2_000_000) == [500_000, 1_000_000, 1_500_000, 2_000_000]


def test_a_reading_that_begins_in_the_middle_begins_with_little_too() -> None:
    assert Reading(1_000_000_000).header == f"bytes=1000000000-{1_000_000_000 + MIN_RANGE_BYTES - 1}"


def test_a_part_is_asked_for_at_once_and_not_beyond_its_end() -> None:
    assert Reading(100, stop=1_000_100).header == "bytes=100-1000099"
    assert Reading(0, stop=10 * MAX_RANGE_BYTES).asked_bytes == MAX_RANGE_BYTES
    assert Reading(5, stop=5).is_complete


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_2000_samples_are_fetched_with_less_than_ten_per_cent_too_much(server: FileServer, kind: str) -> None:
    lines = [f'{{"text": "{"word " * (i % 60)}number {i}"}}\n'.encode() for i in range(10_000)]
    url = server.put("/corpus/a.jsonl", b"".join(lines))
    address: dict[str, Any] = {"url": url, "allow_private": True}
    if kind == "s3":
        address = {"bucket": "corpus", "key": "a.jsonl", "endpoint_url": server.url, "anonymous": True}
    stream = open_kind(kind, **address).stream()
    for _ in range(2000):
        next(stream)
    asked = [re.fullmatch(r"bytes=(\d+)-(\d+)", request["range"]) for request in server.requests]
    fetched = sum(int(match[2]) - int(match[1]) + 1 for match in asked if match)
    assert sum(map(len, lines[:2000])) <= fetched < 1.1 * sum(map(len, lines[:2000]))
