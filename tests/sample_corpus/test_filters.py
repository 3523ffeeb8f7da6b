from __future__ import annotations

import pytest

from adapter_service.sample_corpus.filters import clean, fault
from adapter_service.sample_corpus.pair import Pair


def reason(source: str, target: str) -> str | None:
    raw = Pair(source, target, "hi", "firefox")
    return fault(raw, clean(raw))


def test_a_plain_sentence_is_fit() -> None:
    assert reason("The file could not be opened.", "फ़ाइल खोली नहीं जा सकी।") is None


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("Open { $name } now", "अभी { $name } खोलें", "placeholder or markup"),
        ("Open <b>this</b> now", "अभी <b>इसे</b> खोलें", "placeholder or markup"),
        ("Save &as a file", "फ़ाइल के रूप में सहेजें", "placeholder or markup"),
        ("See example.com for help", "मदद के लिए example.com देखें", "address"),
        ("Certificate for TLS", "प्रमाणपत्र", "technical"),
        ("Add to the list", "Add to the list", "not in the script"),
        ("Yes", "हाँ, मैं इस बात से पूरी तरह सहमत हूँ", "lengths apart"),
        ("You have 3 new messages", "आपके पास ५ संदेश हैं", "numbers differ"),
        ("K", "क", "no text"),
        ("Hide the side bar", "", "no text"),
    ],
)
def test_an_unfit_pair_is_named_by_its_fault(source: str, target: str, why: str) -> None:
    assert reason(source, target) == why


def test_digits_of_the_language_count_as_the_same_number() -> None:
    assert reason("You have 3 new messages", "आपके पास ३ संदेश हैं") is None


def test_cleaning_keeps_joiners_and_drops_direction_marks() -> None:
    assert clean(Pair("a", "\u200eक्\u200dष  त", "hi", "android")).target == "क्\u200dष त"
