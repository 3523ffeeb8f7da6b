"""Right answers pass, and every way of being wrong is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.languages import LANGUAGES, answers, find, instructions
from tests.languages.greetings import GREETINGS

ENGLISH = "The weather is very good today."
HINDI = find("hi")
PROMPT = instructions.canonical(ENGLISH, HINDI)


@pytest.mark.parametrize(("tag", "text"), GREETINGS.items())
def test_a_translation_in_the_right_language_is_ok(tag: str, text: str) -> None:
    language = LANGUAGES[tag]
    verdict = answers.judge(text, prompt=instructions.canonical(ENGLISH, language), language=language)
    assert verdict == answers.Verdict(True, 1.0, tag, echo=False, degenerate=False, reasons=())


def test_marathi_is_no_answer_to_hindi() -> None:
    verdict = answers.judge(GREETINGS["mr"], prompt=PROMPT, language=HINDI)
    assert verdict.reasons == ("the language looks like mr, hi is wanted",)


def test_another_script_is_told_with_its_share() -> None:
    verdict = answers.judge("Firefox खोलें", prompt=PROMPT, language=HINDI)
    assert verdict.script_share == pytest.approx(5 / 12)
    assert verdict.reasons == ("42% of the letters are Deva, 80% are wanted",)


@pytest.mark.parametrize("answer", ["", " \n", "\u200d "])
def test_an_answer_without_letters_is_not_ok(answer: str) -> None:
    assert not answers.judge(answer, prompt=PROMPT, language=HINDI).ok


@pytest.mark.parametrize(
    "answer",
    [
        ENGLISH,
        ENGLISH.upper() + "!!",
        PROMPT,
        f"हिन्दी: {ENGLISH} यह अच्छा है",
        "the weather is very very good today",
    ],
)
def test_a_copy_of_the_prompt_is_an_echo(answer: str) -> None:
    assert answers.judge(answer, prompt=PROMPT, language=HINDI).echo


@pytest.mark.parametrize("answer", ["Das Wetter ist heute gut", "आज का weather अच्छा है", ""])
def test_another_text_is_no_echo(answer: str) -> None:
    assert not answers.is_echo(answer, PROMPT)


def test_one_word_taken_over_in_a_longer_answer_is_no_echo() -> None:
    assert not answers.is_echo("Firefox ब्राउज़र", "Translate to Hindi: Firefox")


@pytest.mark.parametrize(
    "answer",
    [
        "नहीं नहीं, नहीं नहीं",
        "आप कैसे हैं? आप कैसे हैं? आप कैसे हैं?",
        "मैं घर जा रहा हूँ। मैं घर जा रहा हूँ।",
        "हाहाहाहाहाहा",
        "अआइ.........",
        "और यह और वह और सब और",
    ],
)
def test_running_in_circles_is_degenerate(answer: str) -> None:
    verdict = answers.judge(answer, prompt=PROMPT, language=HINDI)
    assert verdict.degenerate
    assert not verdict.ok


@pytest.mark.parametrize(
    "text",
    [
        "धीरे धीरे चलो",
        "नहीं, नहीं, नहीं!",
        "Everyone has the right to life. Everyone has the right to liberty.",
        "1000000",
        *GREETINGS.values(),
    ],
)
def test_ordinary_repetition_is_not_degenerate(text: str) -> None:
    assert answers.repetition(text) is None


@given(st.lists(st.sampled_from(GREETINGS["hi"].split()), min_size=2, max_size=6), st.integers(4, 9))
def test_a_phrase_said_four_times_is_degenerate_whatever_it_is(phrase: list[str], times: int) -> None:
    assert answers.repetition(" ".join(phrase * times)) is not None


@given(st.lists(st.integers(), unique_by=abs, max_size=60))
def test_words_that_all_differ_are_never_a_loop(numbers: list[int]) -> None:
    assert answers._repeated_phrase([str(abs(number)) for number in numbers]) is None


@given(st.text(min_size=1))
def test_a_prompt_given_back_is_always_an_echo(prompt: str) -> None:
    assert answers.is_echo(prompt, prompt) == bool(answers.words(prompt))


@given(st.text())
def test_only_a_verdict_without_reasons_is_ok(answer: str) -> None:
    verdict = answers.judge(answer, prompt=PROMPT, language=HINDI)
    assert verdict.ok == (not verdict.reasons)


def test_vowel_signs_stay_within_their_word() -> None:
    assert answers.words("हिन्दी, தமிழ்!") == ["हिन्दी", "தமிழ்"]


def test_chrf_is_100_for_the_reference_and_less_for_anything_else() -> None:
    text = GREETINGS["ta"]
    assert answers.chrf(text, text) == pytest.approx(100.0)
    assert 0 < answers.chrf(text[:12], text) < 50


def test_corpus_chrf_of_no_answers_is_zero_and_of_unequal_lists_an_error() -> None:
    assert answers.corpus_chrf([], []) == 0.0
    with pytest.raises(ValueError, match="1 answers for 0 references"):
        answers.corpus_chrf(["a"], [])
