"""Rewards in many scripts: what is measured, and that it is the same for all of them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.rewards import COMPONENTS, RewardSettings, copied_share, repeated_share, score
from rl.unicode_text import graphemes, script_of_language, script_share, units

SETTINGS = RewardSettings()

# The same greeting, in scripts with and without spaces, with and without marks.
GREETINGS = {
    "en": "Good morning, how are you today?",
    "hi": "सुप्रभात, आज आप कैसे हैं?",
    "bn": "সুপ্রভাত, আজ আপনি কেমন আছেন?",
    "ta": "காலை வணக்கம், இன்று எப்படி இருக்கிறீர்கள்?",
    "te": "శుభోదయం, ఈ రోజు మీరు ఎలా ఉన్నారు?",
    "gu": "સુપ્રભાત, આજે તમે કેમ છો?",
    "mr": "सुप्रभात, आज तुम्ही कसे आहात?",
    "ur": "صبح بخیر، آج آپ کیسے ہیں؟",
    "pa": "ਸ਼ੁਭ ਸਵੇਰ, ਅੱਜ ਤੁਸੀਂ ਕਿਵੇਂ ਹੋ?",
    "kn": "ಶುಭೋದಯ, ಇಂದು ನೀವು ಹೇಗಿದ್ದೀರಿ?",
    "ml": "സുപ്രഭാതം, ഇന്ന് സുഖമാണോ നിങ്ങൾക്ക്?",
    "th": "สวัสดีตอนเช้า วันนี้คุณเป็นอย่างไรบ้าง",
    "zh": "早上好，你今天过得怎么样？希望你一切顺利，身体健康！",
    "ja": "おはようございます、今日の調子はどうですか？",
    "ko": "좋은 아침입니다, 오늘 기분이 어떠세요?",
    "ru": "Доброе утро, как у вас сегодня дела?",
    "am": "እንደምን አደሩ፣ ዛሬ እንዴት ነዎት? ሰላም ነው?",
}


@pytest.mark.parametrize("language", GREETINGS)
def test_a_good_answer_is_worth_as_much_in_every_script(language: str) -> None:
    scored = score(
        GREETINGS[language], prompt="Translate it, please", settings=SETTINGS, language=language, language_ok=True
    )
    # Of Thai and Chinese the pairs are of characters, some of which come twice in any sentence.
    assert all(value is not None and value > 0.95 for value in scored.components.values())
    assert scored.reward is not None
    assert scored.reward > 0.99


@pytest.mark.parametrize("language", [tag for tag in GREETINGS if tag != "en"])
def test_the_prompt_itself_is_no_answer_in_any_script(language: str) -> None:
    text = GREETINGS[language]
    assert score(text, prompt=f"Say this: {text}", settings=SETTINGS).components["quality"] == 0.0


@pytest.mark.parametrize("language", GREETINGS)
def test_a_loop_is_worth_little_in_every_script(language: str) -> None:
    once = score(GREETINGS[language], prompt="x", settings=SETTINGS).components
    loop = score(f"{GREETINGS[language]} " * 8, prompt="x", settings=SETTINGS).components
    assert once["quality"] == 1.0
    assert loop["quality"] == pytest.approx(1 / 8)
    assert loop["diversity"] is not None
    assert loop["diversity"] < 0.2


def test_an_empty_answer_is_worth_nothing() -> None:
    scored = score("  \n", prompt="x", settings=SETTINGS, language="hi", language_ok=False)
    assert scored.components == dict.fromkeys(COMPONENTS, 0.0)
    assert scored.reward == 0.0


def test_the_wrong_script_is_worth_nothing_of_its_weight() -> None:
    right = score(GREETINGS["gu"], prompt="x", settings=SETTINGS, language="gu")
    wrong = score(GREETINGS["zh"], prompt="x", settings=SETTINGS, language="gu")
    assert (right.components["script"], wrong.components["script"]) == (1.0, 0.0)
    assert right.reward is not None
    assert wrong.reward is not None
    assert right.reward - wrong.reward == pytest.approx(0.2 / 0.8)


def test_a_detectors_no_to_a_word_or_two_counts_only_in_the_wrong_script() -> None:
    def language(output: str, *, ok: bool) -> float | None:
        return score(output, prompt="x", settings=SETTINGS, language="hi", language_ok=ok).components["language"]

    assert [language("सुप्रभात", ok=False), language("सुप्रभात", ok=True), language("Morning", ok=False)] == [
        None,
        1.0,
        0.0,
    ]
    assert language(GREETINGS["mr"], ok=False) == 0.0


def test_what_cannot_be_measured_has_no_part_in_the_mean() -> None:
    scored = score(GREETINGS["hi"], prompt="x", settings=SETTINGS)
    assert (scored.components["script"], scored.components["language"]) == (None, None)
    assert scored.reward == pytest.approx(1.0)
    only_language = RewardSettings(length_weight=0, quality_weight=0, diversity_weight=0, script_weight=0)
    assert score("Hello", prompt="x", settings=only_language).reward is None


def test_the_reward_is_the_mean_by_the_weights() -> None:
    settings = RewardSettings(length_weight=3, quality_weight=1, diversity_weight=0, script_weight=0, language_weight=0)
    scored = score("abc", prompt="x", settings=settings)  # 3 of 12 characters
    assert scored.components["length"] == 0.25
    assert scored.reward == pytest.approx((3 * 0.25 + 1 * 1.0) / 4)


def test_an_endless_answer_is_too_long() -> None:
    settings = RewardSettings(max_characters=100)
    assert score("abcd " * 80, prompt="x", settings=settings).components["length"] == pytest.approx(100 / 399)


def test_a_name_may_be_the_same_in_both_languages() -> None:
    assert copied_share(["ravi", "अच्छा", "है"], ["ravi", "is", "good"]) == 0.0
    assert copied_share(["good", "morning", "जी"], ["say", "good", "morning"]) == pytest.approx(2 / 3)


def test_twice_is_no_loop_and_three_times_is() -> None:
    assert repeated_share(["a", "b", "a", "b"]) == 0.0
    assert repeated_share(["a", "b"] * 3) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("abc", 3), ("é", 1), ("e\u0301", 1), ("नमस्ते", 3), ("क्षत्रिय", 3), ("தமிழ்", 3), ("สวัสดี", 4),
        ("👩‍👩‍👧", 1), ("🇮🇳🇳🇵", 2), ("👍🏽", 1), ("한국어", 3), ("\r\n", 1), ("", 0),
    ],
)  # fmt: skip
def test_characters_are_counted_as_readers_do(text: str, characters: int) -> None:
    assert len(graphemes(text)) == characters


def test_words_keep_their_vowel_signs_and_lose_punctuation() -> None:
    assert units("“Guten Morgen!” — सुप्रभात।") == ["guten", "morgen", "सुप्रभात"]
    assert units("你好，世界") == ["你", "好", "世", "界"]


def test_a_script_is_named_by_the_tag_or_usual_for_the_language() -> None:
    assert [script_of_language(tag) for tag in ("hi", "hi-Deva-IN", "sr-Latn", "zh", "xx", None, "")] == [
        "Deva", "Deva", "Latn", "Hans", None, None, None,
    ]  # fmt: skip
    assert script_share("नमस्ते ok", "Deva") == pytest.approx(6 / 8)


@given(st.text(), st.text(), st.sampled_from([None, "hi", "th", "zh-Hant", "xx"]), st.sampled_from([None, True, False]))
def test_every_component_is_from_0_to_1_whatever_the_text(
    output: str, prompt: str, language: str | None, language_ok: bool | None
) -> None:
    scored = score(output, prompt=prompt, settings=SETTINGS, language=language, language_ok=language_ok)
    assert all(value is None or 0.0 <= value <= 1.0 for value in scored.components.values())
    assert scored.reward is not None
    assert 0.0 <= scored.reward <= 1.0
    assert "".join(graphemes(output)) == unicodedata.normalize("NFC", output)
