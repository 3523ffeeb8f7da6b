"""Which writing system a letter belongs to, told by its Unicode name."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

# First word of a character's Unicode name -> ISO 15924. The names have been stable since Unicode 2.
_BY_NAME = {
    "ARABIC": "Arab",
    "ARMENIAN": "Armn",
    "BENGALI": "Beng",
    "BOPOMOFO": "Bopo",
    "CJK": "Hani",
    "CYRILLIC": "Cyrl",
    "DEVANAGARI": "Deva",
    "ETHIOPIC": "Ethi",
    "GEORGIAN": "Geor",
    "GREEK": "Grek",
    "GUJARATI": "Gujr",
    "GURMUKHI": "Guru",
    "HANGUL": "Hang",
    "HEBREW": "Hebr",
    "HIRAGANA": "Hira",
    "HIRAGANA-KATAKANA": "Kana",
    "IDEOGRAPHIC": "Hani",
    "KANNADA": "Knda",
    "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana",
    "KHMER": "Khmr",
    "LAO": "Laoo",
    "LATIN": "Latn",
    "MALAYALAM": "Mlym",
    "MEETEI": "Mtei",
    "MONGOLIAN": "Mong",
    "MYANMAR": "Mymr",
    "OL": "Olck",
    "ORIYA": "Orya",
    "SINHALA": "Sinh",
    "TAMIL": "Taml",
    "TELUGU": "Telu",
    "THAANA": "Thaa",
    "THAI": "Thai",
    "TIBETAN": "Tibt",
}

# Letters that every script borrows; they say nothing about the language.
_COMMON = frozenset(
    {"COMBINING", "FEMININE", "MASCULINE", "MATHEMATICAL", "MICRO", "MODIFIER", "OHM", "VARIATION", "VEDIC"}
)
_WIDTHS = frozenset({"FULLWIDTH", "HALFWIDTH"})

# Scripts of languages that are written in several at once.
_MEMBERS = {
    "Jpan": frozenset({"Hira", "Kana", "Hani"}),
    "Kore": frozenset({"Hang", "Hani"}),
    "Hans": frozenset({"Hani"}),
    "Hant": frozenset({"Hani"}),
}

UNKNOWN = "Zzzz"


@lru_cache(maxsize=8192)
def script_of(character: str) -> str | None:
    """ISO 15924 code of a letter or combining mark; None for anything else (digits, punctuation, joiners)."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "").split()
    if words and words[0] in _WIDTHS:
        words = words[1:]
    if not words or words[0] in _COMMON:
        return None
    return _BY_NAME.get(words[0], UNKNOWN)


def count(text: str) -> Counter[str]:
    """How many letters and combining marks of each script are in `text`."""
    return Counter(script for script in map(script_of, text) if script is not None)


def members(script: str) -> frozenset[str]:
    """The scripts of single letters that `script` is made of: three for Jpan, itself for most."""
    return _MEMBERS.get(script, frozenset({script}))


def script_share(text: str, script: str) -> float:
    """Share, 0 to 1, of the letters and combining marks of `text` that are in `script`; 0 without letters."""
    counts = count(text)
    total = counts.total()
    return sum(counts[member] for member in members(script)) / total if total else 0.0
