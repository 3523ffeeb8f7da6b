"""Numbers in words: the language is found in the sentences, and its words are Unicode's."""

from __future__ import annotations

import pytest

from adapter_service.commands.number_words import NumberWords


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", [("Set it to ten", {10}), ("Twenty-five please", {25}), ("twelve minutes", {12})]),
        ("de", [("Stell ihn auf zehn", {10}), ("Fünfundzwanzig bitte", {25}), ("zwölf Minuten", {12})]),
        ("hi", [("दस मिनट", {10}), ("पच्चीस प्रतिशत", {25})]),
    ],
)
def test_the_language_is_the_one_whose_words_stand_there(language: str, texts: list[tuple[str, set[int]]]) -> None:
    assert NumberWords.of(texts).language == language


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [("Set it to 10", {10}), ("25 please", {25})],
        [("Twelve minutes", {12}), ("Twelve percent", {12})],  # one number alone
        [("Often", {10}), ("Twentyfivefold", {25})],  # within other words
        [("ten past twelve", {3}), ("twelve past ten", {4})],  # of other meaning
    ],
)
def test_where_few_words_are_found_there_are_none(texts: list[tuple[str, set[int]]]) -> None:
    found = NumberWords.of(texts)
    assert found.language is None
    assert found.said(10) == {}


def test_a_number_is_said_as_it_is_written_and_as_it_is_heard() -> None:
    assert set(NumberWords("en").said(25).values()) == {"twenty-five", "twenty five"}
    assert set(NumberWords("en").said(7).values()) == {"seven"}


def test_every_form_of_a_number_is_there() -> None:
    assert {"vingt et une", "vingt et un"} < set(NumberWords("fr").said(21).values())


@pytest.mark.parametrize("number", [0, -3, 101])
def test_what_is_seldom_said_has_no_words(number: int) -> None:
    assert NumberWords("en").said(number) == {}
