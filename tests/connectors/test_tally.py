from __future__ import annotations

import json
import logging

import pytest

from adapter_service.connectors.base import OTHER_LANGUAGE
from adapter_service.connectors.memory import MemoryConnector
from adapter_service.connectors.tally import MAX_REASONS, Tally, tallied
from adapter_service.errors import EmptySourceError, SourceFormatError, TooManyBadRecordsError
from adapter_service.samples import Message, Sample
from tests.connectors.conftest import open_kind

GOOD, BAD = {"text": "good", "language": "hi"}, "bad"


def run(tally: Tally, *items: object, shuffle_buffer: int = 0) -> int:
    connector = open_kind("memory", items=list(items), shuffle_buffer=shuffle_buffer)
    return sum(1 for _ in tallied(connector, tally))


def test_bad_records_within_the_fraction_are_counted() -> None:
    tally = Tally("corpus", max_skipped_fraction=0.1)
    run(tally, *[GOOD] * 18, BAD, BAD, *[GOOD] * 5)
    assert tally.counts() == {
        "read": 25,
        "used": 23,
        "skipped": 2,
        "reasons": {"a str where an object is wanted": 2},
        "languages": {"hi": 23},
        "skipped_languages": {"unknown": 2},
    }


def test_a_bad_record_that_tells_its_language_counts_for_that() -> None:
    tally = Tally("corpus", max_skipped_fraction=1)
    run(tally, GOOD, {"text": "", "language": "Tamil"}, {"language": "bn"}, {"text": "a", "language": "Klingon"}, BAD)
    assert tally.counts()["skipped_languages"] == {"ta": 1, "bn": 1, "unknown": 2}


@pytest.mark.parametrize("shuffle_buffer", [0, 1000])
def test_bad_records_past_the_fraction_end_the_stream_early(shuffle_buffer: int) -> None:
    tally = Tally("corpus", max_skipped_fraction=0.1)
    with pytest.raises(TooManyBadRecordsError, match=r"bad, 10% are allowed.*a str where an object is wanted"):
        run(tally, *[GOOD, GOOD, BAD] * 500, shuffle_buffer=shuffle_buffer)
    assert tally.read <= 21


def test_a_short_source_is_judged_at_its_end() -> None:
    tally = Tally("corpus", max_skipped_fraction=0.1)
    with pytest.raises(TooManyBadRecordsError, match="1 of the 3 records"):
        run(tally, BAD, GOOD, GOOD)


def test_bad_records_of_a_shuffled_block_are_weighed_against_those_read_with_them() -> None:
    tally = Tally("corpus", max_skipped_fraction=0.1)
    assert run(tally, *[*[GOOD] * 19, BAD] * 30, shuffle_buffer=1000) == 570


def test_records_in_other_languages_are_not_bad() -> None:
    tally = Tally("corpus", max_skipped_fraction=0.0)
    for i in range(100):
        tally.skipped(f"corpus:{i}", OTHER_LANGUAGE, "ta")
    assert (tally.bad, tally.counts()["skipped"]) == (0, 100)


def test_an_empty_source_is_an_error() -> None:
    with pytest.raises(EmptySourceError, match="gave no sample; 0 record"):
        run(Tally("corpus", max_skipped_fraction=0.1))


def test_a_filter_that_leaves_nothing_says_what_was_left_out() -> None:
    connector = open_kind("memory", items=[GOOD] * 3, only=("ta",))
    with pytest.raises(EmptySourceError, match="skipped: 3 × other language"):
        list(tallied(connector, Tally("corpus", max_skipped_fraction=0.1)))


def test_a_stream_resumed_at_its_end_is_not_empty() -> None:
    connector = open_kind("memory", items=[GOOD])
    [(cursor, _)] = connector.stream()
    assert list(tallied(connector, Tally("corpus", max_skipped_fraction=0.1), after=cursor)) == []


def test_only_the_first_few_are_logged_with_their_origin(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally("corpus", max_skipped_fraction=1.0)
    with caplog.at_level(logging.WARNING):
        run(tally, GOOD, *[BAD] * 50)
    assert caplog.messages[0].startswith("skipped corpus:2: a str where")
    assert len(caplog.messages) == 6


def test_reasons_without_end_are_counted_together() -> None:
    tally = Tally("corpus", max_skipped_fraction=1.0)
    for i in range(1000):
        tally.skipped(f"corpus:{i}", f"reason {i}")
    assert len(tally.counts()["reasons"]) == MAX_REASONS + 1
    assert tally.counts()["skipped"] == 1000


def test_counts_survive_a_restart() -> None:
    tally = Tally("corpus", max_skipped_fraction=0.5)
    run(tally, GOOD, GOOD, BAD)
    counts = json.loads(json.dumps(tally.counts()))
    resumed = Tally("corpus", max_skipped_fraction=0.5)
    resumed.go_on_from(counts)
    assert resumed.counts() == tally.counts()


def test_samples_in_memory_are_a_source_too() -> None:
    samples = [Sample((Message("assistant", f"text {i}"),), language="hi") for i in range(3)]
    pairs = list(tallied(MemoryConnector(samples), Tally("corpus", max_skipped_fraction=0)))
    assert [sample for _, sample in MemoryConnector(samples).stream(after=pairs[0][0])] == samples[1:]


@pytest.mark.parametrize("shuffle_buffer", [0, 1000])
@pytest.mark.parametrize("records", [5, 500])
def test_a_wrong_field_name_is_told_before_its_records_are_counted_as_bad(records: int, shuffle_buffer: int) -> None:
    with pytest.raises(SourceFormatError, match=r"has the field 'text'; wanted: text; found: content, language"):
        run(
            Tally("corpus", max_skipped_fraction=0.1),
            *[{"content": "good", "language": "hi"}] * records,
            shuffle_buffer=shuffle_buffer,
        )


@pytest.mark.parametrize("records", [5, 500])
def test_a_source_of_which_nothing_can_be_used_is_of_another_format(records: int) -> None:
    with pytest.raises(SourceFormatError, match=r"none of the first \d+ record.*a str where an object is wanted"):
        run(Tally("corpus", max_skipped_fraction=0.1), *[BAD] * records)
