"""What can be said of one answer without knowing what it means."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adapter_service.languages import Language, detect, instructions, script_share

MIN_SCRIPT_SHARE = 0.8
# An answer in Latin letters with this share of its words from the prompt is a copy of it.
_COPIED_SHARE = 0.8
_MAX_SAME_CHARACTER = 8
_MAX_SAME_WORD = 3
# "हाहाहाहाहाहा": a loop inside what whitespace calls one word, as in scripts without spaces.
_LOOP = re.compile(r"(\S.{1,15}?)\1{4,}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`detected` is a BCP-47 tag; `reasons` says in words what is wrong, and is empty where `ok`."""

    ok: bool
    script_share: float
    detected: str | None
    echo: bool
    degenerate: bool
    reasons: tuple[str, ...]


def judge(answer: str, *, prompt: str, language: Language) -> Verdict:
    """Is `answer` in the right language and script, and neither a copy of `prompt` nor a loop?"""
    if not answer.strip():
        return Verdict(
            ok=False,
            script_share=0.0,
            detected=None,
            echo=False,
            degenerate=True,
            reasons=("the answer is empty",),
        )
    share = script_share(answer, language.script)
    detected = detect(answer, expected=language.tag)
    echo = is_echo(answer, prompt)
    loop = repetition(answer)
    reasons: list[str] = []
    if share < MIN_SCRIPT_SHARE:
        reasons.append(f"{share:.0%} of the letters are {language.script}, {MIN_SCRIPT_SHARE:.0%} are wanted")
    elif detected != language.tag:
        reasons.append(f"the language looks like {detected or 'none'}, {language.tag} is wanted")
    if echo:
        reasons.append("it repeats the prompt")
    if loop:
        reasons.append(loop)
    return Verdict(not reasons, share, detected, echo, degenerate=loop is not None, reasons=tuple(reasons))


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation, as a comparison wants them."""
    # str.isalnum and \w are false for vowel signs, which would cut every Indic word to pieces.
    kept = "".join(
        character if unicodedata.category(character)[0] in "LMN" else " "
        for character in unicodedata.normalize("NFC", text).casefold()
        if unicodedata.category(character) != "Cf"
    )
    return kept.split()


def is_echo(answer: str, prompt: str) -> bool:
    """Does `answer` repeat the prompt, or the text that the prompt wants translated?"""
    instruction = instructions.read(prompt)
    answered, asked = words(answer), words(prompt)
    payload = words(instruction.text) if instruction else asked
    if not answered or not payload:
        return False
    if answered in (payload, asked) or (len(payload) > 1 and _contains(answered, payload)):
        return True
    copied = sum(word in set(asked) for word in answered)
    return script_share(answer, "Latn") >= _COPIED_SHARE and copied / len(answered) >= _COPIED_SHARE


def _contains(long: Sequence[str], short: Sequence[str]) -> bool:
    return f" {' '.join(short)} " in f" {' '.join(long)} "


def repetition(text: str) -> str | None:
    """How `text` runs in circles, in words; None when it does not."""
    if match := re.search(rf"(\S)\1{{{_MAX_SAME_CHARACTER},}}", text):
        return f"{match[1]!r} stands {len(match[0])} times in a row"
    if (match := _LOOP.search(text)) and len(match[0]) > len(text) / 2:
        return f"{match[1]!r} is repeated without end"
    found = words(text)
    if run := _longest_run(found):
        return f"the word {run!r} stands more than {_MAX_SAME_WORD} times in a row"
    if phrase := _repeated_phrase(found):
        return f"the phrase {phrase!r} makes up most of it"
    return None


def _longest_run(found: Sequence[str]) -> str | None:
    run = 0
    for previous, word in zip(["", *found], found, strict=False):
        run = run + 1 if word == previous else 1
        if run > _MAX_SAME_WORD:
            return word
    return None


def _repeated_phrase(found: Sequence[str]) -> str | None:
    """A phrase that covers more than half the words by repetition.

    Twice is not enough unless the answer is just that, said twice: "everyone has the right to
    life, everyone has the right to rest" is a sentence. A single word has to come four times.
    """
    half = len(found) // 2
    if half >= 3 and list(found[:half]) == list(found[half:]):
        return " ".join(found[:half])
    for size in range(1, len(found) // 3 + 1):
        grams = Counter(tuple(found[i : i + size]) for i in range(len(found) - size + 1))
        gram, _ = grams.most_common(1)[0]
        times = _count_apart(found, gram)
        if times >= (3 if size > 1 else 4) and times * size > len(found) / 2:
            return " ".join(gram)
    return None


def _count_apart(found: Sequence[str], gram: tuple[str, ...]) -> int:
    """Occurrences of `gram` that do not overlap."""
    times = position = 0
    while position <= len(found) - len(gram):
        hit = tuple(found[position : position + len(gram)]) == gram
        times += hit
        position += len(gram) if hit else 1
    return times


def chrf(hypothesis: str, reference: str) -> float:
    """chrF of one answer, 0 to 100; by itself it says little, about 16 come from the language alone."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """chrF over all answers together, 0 to 100; 0 for no answers."""
    from sacrebleu.metrics import CHRF

    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} answers for {len(references)} references; pass one of each")
    if not hypotheses:
        return 0.0
    return float(CHRF().corpus_score(list(hypotheses), [list(references)]).score)
