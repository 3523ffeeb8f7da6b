"""Instructions are worded in several ways, and every wording is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.languages import LANGUAGES, find, instructions

TEN = ("hi", "bn", "ta", "te", "gu", "mr", "ur", "pa", "kn", "ml")
HINDI = find("hi")


@given(
    text=st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1).filter(str.strip),
    tag=st.sampled_from(TEN),
    variant=st.text(),
)
def test_the_language_is_read_back_from_every_wording(text: str, tag: str, variant: str) -> None:
    prompt = instructions.translation(text, LANGUAGES[tag], variant)
    assert instructions.target_language(prompt) == LANGUAGES[tag]


@pytest.mark.parametrize("variant", [str(number) for number in range(40)])
def test_the_text_is_read_back_from_every_wording(variant: str) -> None:
    text = "Two colons: one, two: three. In English?"
    read = instructions.read(instructions.translation(text, HINDI, variant))
    assert read == instructions.Instruction(HINDI, text)


def test_the_same_variant_always_has_the_same_wording() -> None:
    assert len({instructions.translation("Good morning", HINDI, "a1b2") for _ in range(3)}) == 1


def test_six_in_ten_get_the_canonical_wording_and_the_rest_several_others() -> None:
    wordings = [instructions.translation("Good morning", HINDI, str(number)) for number in range(2000)]
    canonical = wordings.count(instructions.canonical("Good morning", HINDI))
    assert canonical == pytest.approx(1200, abs=80)
    assert len(set(wordings)) == 8


def test_the_canonical_wording_is_the_one_that_users_write() -> None:
    assert instructions.canonical("Good morning", HINDI) == "Translate to Hindi: Good morning"


@pytest.mark.parametrize(
    "prompt",
    [
        "translate to hi: good morning",
        "Please translate 'good morning' to Hindi.",
        "Translate the following text from English into the Hindi language:\ngood morning",
        "English to Hindi: good morning",
        "How would you say “good morning” in Hindi",
        "What is good morning in हिन्दी?",
        "In Hindi: good morning",
    ],
)
def test_what_users_write_instead_is_understood(prompt: str) -> None:
    assert instructions.read(prompt) == instructions.Instruction(HINDI, "good morning")


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "How are you?",
        "Note: it rains",
        "hi: you",
        "What is the time in London?",
        "Translate to Klingon: yes",
    ],
)
def test_other_prompts_ask_for_no_translation(prompt: str) -> None:
    assert instructions.target_language(prompt) is None
