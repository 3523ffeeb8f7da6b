from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.connectors.base import Connector
from adapter_service.connectors.registry import open_source
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import (
    EmptySourceError,
    SettingsError,
    SourceFormatError,
    SourceUnreachableError,
    TooManyBadRecordsError,
)
from adapter_service.settings import SourceEntry

LANGUAGES = {"a": "hi", "b": "ta", "c": "bn"}


def items(name: str, number: int) -> list[Any]:
    return [{"text": f"{name}{i}", "language": LANGUAGES[name]} for i in range(number)]


def open_mix(
    parts: dict[str, list[Any]],
    weights: dict[str, float] | None = None,
    *,
    seed: int = 0,
    shuffle_buffer: int = 0,
    only: tuple[str, ...] = (),
    **options: Any,
) -> Connector:
    entries = {name: SourceEntry(name=name, kind="memory", options={"items": rows}) for name, rows in parts.items()}
    sources = weights or dict.fromkeys(parts, 1.0)
    mix = SourceEntry(name="both", kind="mix", options={"sources": sources, **options}, parts=entries)
    return open_source(mix, languages=only, seed=seed, shuffle_buffer=shuffle_buffer)


def texts(connector: Connector) -> list[str]:
    return [sample.completion for _, sample in connector.stream()]


def test_each_source_comes_as_often_as_its_weight_says() -> None:
    mixed = texts(open_mix({"a": items("a", 4000), "b": items("b", 4000)}, {"a": 3, "b": 1}))[:4000]
    share = Counter(text[0] for text in mixed)["a"] / len(mixed)
    assert 0.72 < share < 0.78


def test_each_source_keeps_its_own_order() -> None:
    mixed = texts(open_mix({"a": items("a", 30), "b": items("b", 20)}))
    assert [text for text in mixed if text[0] == "a"] == [f"a{i}" for i in range(30)]
    assert [text for text in mixed if text[0] == "b"] == [f"b{i}" for i in range(20)]


def test_the_draw_follows_from_the_seed_alone() -> None:
    parts = {"a": items("a", 50), "b": items("b", 50)}
    assert texts(open_mix(parts, seed=1)) == texts(open_mix(parts, seed=1))
    assert texts(open_mix(parts, seed=1)) != texts(open_mix(parts, seed=2))


def test_a_source_that_ends_leaves_the_others_going_or_ends_the_mix() -> None:
    parts = {"a": items("a", 5), "b": items("b", 50)}
    assert len(texts(open_mix(parts))) == 55
    until_first = texts(open_mix(parts, stops="first"))
    assert until_first.count("a4") == 1
    assert len(until_first) < 40


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    weights=st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    seed=st.integers(0, 5),
    block=st.sampled_from([0, 4]),
    stops=st.sampled_from(["all", "first"]),
    only=st.sampled_from([(), ("Hindi", "Bengali")]),
    limit=st.sampled_from([None, 5]),
)
def test_a_mix_resumes_exactly_after_every_cursor(
    sizes: list[int],
    weights: list[float],
    seed: int,
    block: int,
    stops: str,
    only: tuple[str, ...],
    limit: int | None,
) -> None:
    names = list(LANGUAGES)[: len(sizes)]
    connector = open_mix(
        {name: items(name, size) for name, size in zip(names, sizes, strict=True)},
        dict(zip(names, weights, strict=False)),
        seed=seed,
        shuffle_buffer=block,
        only=only,
        stops=stops,
        max_samples=limit,
    )
    pairs = [(json.loads(json.dumps(cursor)), sample) for cursor, sample in connector.stream()]
    assert limit is None or len(pairs) <= limit
    for i, (cursor, _) in enumerate(pairs):
        assert list(connector.stream(after=cursor)) == pairs[i + 1 :]


def test_records_are_counted_for_each_source_and_for_all() -> None:
    connector = open_mix({"a": [*items("a", 9), "bad"], "b": items("b", 5)}, only=("hi",), shuffle_buffer=4)
    tally = Tally("both", max_skipped_fraction=0.2)
    list(tallied(connector, tally))
    assert tally.counts() == {
        "read": 15,
        "used": 9,
        "skipped": 6,
        "reasons": {"other language": 5, "a str where an object is wanted": 1},
        "languages": {"hi": 9},
        "skipped_languages": {"ta": 5, "unknown": 1},
        "sources": {
            "a": {
                "read": 10,
                "used": 9,
                "skipped": 1,
                "reasons": {"a str where an object is wanted": 1},
                "languages": {"hi": 9},
                "skipped_languages": {"unknown": 1},
            },
            "b": {
                "read": 5,
                "used": 0,
                "skipped": 5,
                "reasons": {"other language": 5},
                "languages": {},
                "skipped_languages": {"ta": 5},
            },
        },
    }


def test_the_counts_of_two_attempts_add_up_to_those_of_one() -> None:
    connector = open_mix({"a": [*items("a", 9), "bad"], "b": [*items("b", 5), "bad"]}, shuffle_buffer=4)
    whole = Tally("both", max_skipped_fraction=0.5)
    cursors = [cursor for cursor, _ in tallied(connector, whole)]
    for stop in range(1, len(cursors)):
        first = Tally("both", max_skipped_fraction=0.5)
        stream = tallied(connector, first)
        for _ in range(stop):
            next(stream)
        second = Tally("both", max_skipped_fraction=0.5)
        second.go_on_from(json.loads(json.dumps(first.counts())))
        list(tallied(connector, second, after=cursors[stop - 1]))
        assert second.counts() == whole.counts()


def test_a_source_of_bad_records_ends_a_mix_in_which_they_are_few() -> None:
    connector = open_mix(
        {"a": items("a", 5000), "b": [*items("b", 1), *["bad", *items("b", 1)] * 200]}, {"a": 20, "b": 1}
    )
    tally = Tally("both", max_skipped_fraction=0.1)
    with pytest.raises(TooManyBadRecordsError, match=r"mix 'both', source 'b': source 'b': \d+ of the 2\d records"):
        list(tallied(connector, tally))
    assert tally.bad < 0.1 * tally.read


def test_a_short_source_of_bad_records_is_judged_at_the_end() -> None:
    connector = open_mix({"a": items("a", 100), "b": ["bad", *items("b", 3)]})
    with pytest.raises(TooManyBadRecordsError, match="source 'b': 1 of the 4 records"):
        list(tallied(connector, Tally("both", max_skipped_fraction=0.1)))


def test_a_source_without_records_is_an_error_and_one_without_the_language_is_not() -> None:
    with pytest.raises(EmptySourceError, match=r"mix 'both', source 'b': it has no records"):
        texts(open_mix({"a": items("a", 5), "b": []}))
    assert len(texts(open_mix({"a": items("a", 5), "b": items("b", 5)}, only=("hi",)))) == 5


def test_an_error_of_a_source_names_it() -> None:
    with pytest.raises(SourceFormatError, match=r"mix 'both', source 'b': source 'b': none of the first .* 'text'"):
        texts(open_mix({"a": items("a", 50), "b": [{"words": "x"}] * 50}))
    gone = SourceEntry(name="gone", kind="local", options={"path": "/nonexistent/a.jsonl"})
    mix = SourceEntry(name="both", kind="mix", options={"sources": {"gone": 1}}, parts={"gone": gone})
    with pytest.raises(SourceUnreachableError, match=r"mix 'both', source 'gone': source 'gone': no file matches"):
        open_source(mix).check()


def test_a_check_tells_the_share_and_the_first_sample_of_each() -> None:
    found = open_mix({"a": items("a", 5), "b": items("b", 5)}, {"a": 3, "b": 1}).check()
    assert "a (75%): 5 record(s) in memory; first sample: 'a0' (hi)" in found
    assert "b (25%): " in found


def test_a_secret_of_a_part_is_shown_as_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS_PATH", "/nonexistent/s3cret/a.jsonl")
    part = SourceEntry(name="part", kind="local", options={"path": "${CORPUS_PATH}", "file_format": "jsonl"})
    mix = SourceEntry(name="both", kind="mix", options={"sources": {"part": 1}}, parts={"part": part})
    with pytest.raises(SourceUnreachableError) as caught:
        list(open_source(mix).stream())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": {}}, r"line 3: in 'both.sources': .*at least 1 item"),
        ({"sources": {"a": 0}}, r"line 4: 'both.sources.a' is 0; it should be greater than 0"),
        ({"sources": {"a": "much"}}, r"line 4: 'both.sources.a' is 'much'"),
        ({"sources": {"a": 1}, "stops": "last"}, r"'both.stops' is 'last'; it should be 'all' or 'first'"),
        ({"sources": {"a": 1}, "format": "chat"}, r"unknown key 'both.format'"),
        ({"sources": {"a": 1}, "languages": ["Klingonish"]}, r"'both.languages'"),
    ],
)
def test_options_are_checked_with_their_lines(options: dict[str, Any], message: str) -> None:
    mix = SourceEntry(name="both", kind="mix", options=options, line=2, lines={"sources": 3, "sources.a": 4})
    with pytest.raises(SettingsError, match=message):
        open_source(mix)
