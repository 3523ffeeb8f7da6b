"""Languages are found by what people call them, and told apart by what people write."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.errors import InvalidParameterError
from adapter_service.languages import LANGUAGES, Language, detect, find, script_share
from tests.languages.greetings import GREETINGS

OTHERS = {
    "as": "আজি বতৰ বৰ ভাল।",
    "fa": "امروز هوا خیلی خوب است.",
    "ar": "الطقس جميل جدا اليوم.",
    "ps": "نن ورځ هوا ډېره ښه ده.",
    "ja": "今日は天気がとても良いです。",
    "zh": "今天天气很好。",
    "ko": "오늘 날씨가 아주 좋습니다.",
    "ru": "Сегодня очень хорошая погода.",
    "uk": "Сьогодні дуже гарна погода, чи не так?",
    "el": "Σήμερα ο καιρός είναι πολύ καλός.",
    "de": "Das Wetter ist heute sehr schön.",
    "th": "วันนี้อากาศดีมาก",
}


@pytest.mark.parametrize(("tag", "text"), (GREETINGS | OTHERS).items())
def test_a_sentence_is_recognized_as_its_language(tag: str, text: str) -> None:
    assert detect(text) == tag


@pytest.mark.parametrize(("tag", "text"), GREETINGS.items())
def test_every_letter_of_a_sentence_is_in_its_script(tag: str, text: str) -> None:
    assert script_share(text, LANGUAGES[tag].script) == 1.0


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_language_is_found_by_tag_names_and_full_tag(tag: str) -> None:
    known = LANGUAGES[tag]
    for text in (tag, tag.upper(), known.name.lower(), known.native, known.lang_tag):
        assert find(text) == known


@pytest.mark.parametrize("known", LANGUAGES.values(), ids=LANGUAGES)
def test_a_native_name_is_written_in_the_languages_own_script(known: Language) -> None:
    assert script_share(known.native, known.script) == 1.0


def test_the_full_tag_names_script_and_region() -> None:
    assert find("Hindi").lang_tag == "hi-Deva-IN"
    assert find("zh-TW").lang_tag == "zh-Hant-TW"


def test_the_callers_region_is_kept() -> None:
    assert find("ta-LK").lang_tag == "ta-Taml-LK"


@pytest.mark.parametrize("text", ["hi-Latn", "Klingon", "", "xx", "hi-Deva-IN-x-more"])
def test_an_unknown_language_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="give a BCP-47 tag"):
        find(text)


def test_a_misspelt_name_gets_a_proposal() -> None:
    with pytest.raises(InvalidParameterError, match="did you mean 'Malayalam'"):
        find("Malayalm")


def test_numbers_punctuation_and_joiners_are_not_letters() -> None:
    assert script_share("१२ 34 — ?!", "Deva") == 0.0
    assert script_share("न\u200dम, 12 (34)!", "Deva") == 1.0


def test_half_a_sentence_in_another_script_is_half_the_share() -> None:
    assert script_share("ab कख", "Deva") == 0.5


def test_kanji_and_kana_are_both_japanese() -> None:
    assert script_share("今日はカメラ", "Jpan") == 1.0


def test_nepali_is_told_from_hindi_only_where_it_is_expected() -> None:
    text = "आज मौसम धेरै राम्रो छ र हामी बाहिर जाँदैछौं।"
    assert detect(text) in {"hi", "mr"}
    assert detect(text, expected="ne") == "ne"


def test_a_language_without_a_model_is_believed_by_its_script() -> None:
    assert detect("आज मौसम", expected="doi") == "doi"
    assert detect("good morning", expected="doi") == "en"


@given(st.text())
def test_any_text_has_a_share_between_none_and_all(text: str) -> None:
    assert 0.0 <= script_share(text, "Deva") <= 1.0


@given(st.text(max_size=30))
def test_text_has_a_language_only_if_it_has_letters(text: str) -> None:
    if not any(unicodedata.category(character)[0] in "LM" for character in text):
        assert detect(text) is None


@pytest.mark.parametrize("text", ["x is", "Paris", "OK", "Good day", "Да", "हाँ"])
def test_a_word_or_two_are_no_evidence_among_several_languages(text: str) -> None:
    assert detect(text) is None


@pytest.mark.parametrize(("text", "tag"), [("வணக்கம்", "ta"), ("谢谢", "zh"), ("ہاں", "ur"), ("Γεια", "el")])
def test_one_word_will_do_where_letters_or_script_decide(text: str, tag: str) -> None:
    assert detect(text) == tag


def test_a_script_that_a_language_is_not_written_in_here_is_named() -> None:
    with pytest.raises(InvalidParameterError, match=r"Punjabi is written in Guru here, not in Arab; .*'pa-Guru-IN'"):
        find("pa-Arab")


@pytest.mark.parametrize(("text", "name"), [("Hindee", "Hindi"), ("hndi", "Hindi"), ("Tamill", "Tamil")])
def test_the_proposal_is_the_name_that_begins_alike(text: str, name: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"did you mean '{name}'"):
        find(text)
