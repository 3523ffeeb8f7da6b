"""The translation instruction that users write, its paraphrases, and reading them back."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from adapter_service import languages
from adapter_service.errors import InvalidParameterError
from adapter_service.languages import Language

_CANONICAL = "Translate to {language}: {text}"
_CANONICAL_PERCENT = 60
_PARAPHRASES = (
    "Translate into {language}: {text}",
    "Translate this to {language}: {text}",
    "Translate the following sentence into {language}: {text}",
    "Translate from English to {language}: {text}",
    'How do you say "{text}" in {language}?',
    "Say this in {language}: {text}",
    "{language}: {text}",
)

_NAME = r"(?P<language>[^\s:?\"][^:?\"\n]{0,40}?)"
_TEXT = r"[\"“'‘]?(?P<text>.+?)[\"”'’]?"
_SHAPES = tuple(
    re.compile(shape, re.IGNORECASE | re.DOTALL)
    for shape in (
        # Translate (this | the following text | from English) to Hindi: …
        rf"(?:please\s+)?translate\b[^:\n]{{0,60}}?\b(?:to|into|in)\s+{_NAME}\s*[:：\n]\s*(?P<text>.+)",
        rf"(?:please\s+)?(?:say|write)\b[^:\n]{{0,30}}?\bin\s+{_NAME}\s*[:：\n]\s*(?P<text>.+)",
        # How do you say "…" in Hindi?
        rf"(?:how\s+(?:do|would|can)\s+(?:you|i|we)\s+say|what\s+is)\s+{_TEXT}\s+in\s+{_NAME}\s*\??",
        # Translate "…" into Hindi
        rf"(?:please\s+)?translate\s+{_TEXT}\s+(?:to|into)\s+{_NAME}\s*[.!?]?",
        # Hindi: …, In Hindi: …, English to Hindi: …
        rf"(?:english\s+to\s+|in\s+)?{_NAME}\s*[:：]\s*(?P<text>.+)",
    )
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a prompt asks for: `text`, to be put into `language`."""

    language: Language
    text: str


def canonical(text: str, language: Language) -> str:
    return _CANONICAL.format(text=text, language=language.name)


def translation(text: str, language: Language, variant: str) -> str:
    """The instruction in one wording, always the same for the same `variant` (a sample's key, say).

    Six in ten variants get the canonical wording, which is the one that the service is asked in.
    """
    number = int(hashlib.sha256(variant.encode()).hexdigest()[:12], 16)
    share, choice = number % 100, number // 100
    template = _CANONICAL if share < _CANONICAL_PERCENT else _PARAPHRASES[choice % len(_PARAPHRASES)]
    return template.format(text=text, language=language.name)


def read(prompt: str) -> Instruction | None:
    """The translation that `prompt` asks for, in any of the wordings above or a similar one."""
    prompt = prompt.strip()
    for shape in _SHAPES:
        match = shape.fullmatch(prompt)
        tags_too = shape is _SHAPES[0]
        if match and (language := _named(match["language"], tags_too=tags_too)):
            return Instruction(language, match["text"].strip())
    return None


def target_language(prompt: str) -> Language | None:
    """The language that `prompt` asks a translation into, or None when it asks for none."""
    instruction = read(prompt)
    return instruction.language if instruction else None


def answer_language(prompt: str, given: Language | None) -> Language | None:
    """The language that an answer shall be in: the one that was given, else the one that the prompt asks for."""
    return given or target_language(prompt)


def _named(name: str, *, tags_too: bool) -> Language | None:
    name = re.sub(r"^the\s+|\s+language$", "", name.strip(), flags=re.IGNORECASE)
    # Outside "translate to …:", words as short as a tag ("hi", "it", "no") are plain words.
    if len(name) < 4 and not tags_too:
        return None
    try:
        return languages.find(name)
    except InvalidParameterError:
        return None
