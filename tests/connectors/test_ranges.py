from __future__ import annotations

from itertools import pairwise

from adapter_service.connectors.ranges import MAX_RANGE_BYTES, MIN_RANGE_BYTES, Reading


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
