"""Characters, words and scripts of any language, by Unicode's own tables.

`adapter_service.languages` tells more (which language a text is in); this package may not import it,
and has only what rewards need and the standard library can tell.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import pairwise

_ZWJ = "\u200d"
_JOINERS = frozenset({"\u200c", _ZWJ})
_VIRAMA_CLASS = 9
# Where a virama ties consonants into one letter for the reader (UAX 29, rule GB9c).
_CONJUNCT_SCRIPTS = frozenset({"BENGALI", "DEVANAGARI", "GUJARATI", "MALAYALAM", "ORIYA", "TELUGU"})

# ISO 15924 code -> the first words of its letters' Unicode names, which never change.
_NAMES: dict[str, frozenset[str]] = {
    code: frozenset(names.split())
    for code, names in {
        "Arab": "ARABIC", "Armn": "ARMENIAN", "Beng": "BENGALI", "Cyrl": "CYRILLIC", "Deva": "DEVANAGARI",
        "Ethi": "ETHIOPIC", "Geor": "GEORGIAN", "Grek": "GREEK", "Gujr": "GUJARATI", "Guru": "GURMUKHI",
        "Hang": "HANGUL", "Hani": "CJK IDEOGRAPHIC", "Hans": "CJK IDEOGRAPHIC", "Hant": "CJK IDEOGRAPHIC",
        "Hebr": "HEBREW", "Hira": "HIRAGANA", "Kana": "KATAKANA",
        "Jpan": "HIRAGANA KATAKANA HIRAGANA-KATAKANA KATAKANA-HIRAGANA CJK IDEOGRAPHIC", "Khmr": "KHMER",
        "Knda": "KANNADA", "Kore": "HANGUL CJK", "Laoo": "LAO", "Latn": "LATIN", "Mlym": "MALAYALAM",
        "Mong": "MONGOLIAN", "Mtei": "MEETEI", "Mymr": "MYANMAR", "Olck": "OL", "Orya": "ORIYA", "Sinh": "SINHALA",
        "Taml": "TAMIL", "Telu": "TELUGU", "Thaa": "THAANA", "Thai": "THAI", "Tibt": "TIBETAN",
    }.items()
}  # fmt: skip
_NO_SPACES = frozenset().union(*(_NAMES[code] for code in ("Jpan", "Khmr", "Laoo", "Mymr", "Thai", "Tibt")))
# Letters that every script borrows; they say nothing about the language.
_BORROWED = frozenset(
    {"COMBINING", "FEMININE", "MASCULINE", "MATHEMATICAL", "MICRO", "MODIFIER", "OHM", "VARIATION", "VEDIC"}
)

# The script that a language is written in where its tag does not name one.
_SCRIPTS = {
    language: script
    for script, languages in {
        "Arab": "ar ckb fa ks ps sd ug ur", "Armn": "hy", "Beng": "as bn", "Cyrl": "be bg kk ky mk mn ru sr tg uk",
        "Deva": "bho brx doi gom hi mai mr ne sa", "Ethi": "am ti", "Geor": "ka", "Grek": "el", "Gujr": "gu",
        "Guru": "pa", "Hans": "zh", "Hebr": "he yi", "Jpan": "ja", "Khmr": "km", "Knda": "kn", "Kore": "ko",
        "Laoo": "lo",
        "Latn": "af ca cs cy da de en es et eu fi fr ga gl ha hr hu id ig is it lt lv ms mt nb nl no pl pt ro sk sl "
        "so sq sv sw tl tr uz vi xh yo zu",
        "Mlym": "ml", "Mtei": "mni", "Mymr": "my", "Olck": "sat", "Orya": "or", "Sinh": "si", "Taml": "ta",
        "Telu": "te", "Thaa": "dv", "Thai": "th", "Tibt": "bo",
    }.items()
    for language in languages.split()
}  # fmt: skip


def graphemes(text: str) -> list[str]:
    """What a reader counts as characters: letters with their marks, conjuncts, flags and joined emoji as one.

    Unicode's extended grapheme clusters (UAX 29) but for Hangul in single jamo, which NFC composes.
    """
    text = unicodedata.normalize("NFC", text)
    starts: list[int] = []
    for place in range(len(text)):
        if not starts or not _continues(text, starts[-1], place):
            starts.append(place)
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]


def _continues(text: str, start: int, place: int) -> bool:
    """Whether the character at `place` belongs to the cluster that began at `start` and reaches up to it."""
    # Not the cluster as a text of its own: one of a hundred thousand marks would be copied as often.
    character, previous = text[place], text[place - 1]
    category = unicodedata.category(character)
    if category[0] == "M" or character in _JOINERS or "\U0001f3fb" <= character <= "\U0001f3ff":
        return not unicodedata.category(text[start]).startswith("C")
    if previous == "\r":
        return character == "\n"
    if _is_flag_letter(character):
        return place - start == 1 and _is_flag_letter(previous)
    if category == "So":
        return previous == _ZWJ
    return category == "Lo" and _script_name(character) in _CONJUNCT_SCRIPTS and _ends_in_virama(text, start, place)


def _ends_in_virama(text: str, start: int, end: int) -> bool:
    while end > start and text[end - 1] == _ZWJ:
        end -= 1
    return end > start and unicodedata.combining(text[end - 1]) == _VIRAMA_CLASS


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def units(text: str) -> list[str]:
    """Words in lower case without punctuation; of scripts without spaces between words, single characters."""
    folded = unicodedata.normalize("NFC", text).casefold()
    # str.isalnum is false for vowel signs, which would cut every Indic word to pieces.
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in folded if unicodedata.category(c) != "Cf")
    found: list[str] = []
    for word in "".join(kept).split():
        spaceless = any(_script_name(character) in _NO_SPACES for character in word)
        found += graphemes(word) if spaceless else [word]
    return found


def letters(text: str) -> int:
    """How many letters and marks there are."""
    return sum(unicodedata.category(character)[0] in "LM" for character in text)


def script_share(text: str, script: str) -> float:
    """Share, 0 to 1, of the letters and marks of `text` that are in `script` (ISO 15924); 0 without letters."""
    names = [name for name in map(_script_name, text) if name and name not in _BORROWED]
    return sum(name in _NAMES[script] for name in names) / len(names) if names else 0.0


def script_of_language(tag: str | None) -> str | None:
    """ISO 15924 code for a BCP-47 tag: the one that it names (`sr-Latn`), else the usual one; None if unknown."""
    language, *rest = (tag or "").replace("_", "-").split("-")
    named = next((part.title() for part in rest if len(part) == 4 and part.isalpha()), None)
    script = named or _SCRIPTS.get(language.lower())
    return script if script in _NAMES else None


@lru_cache(maxsize=8192)
def _script_name(character: str) -> str | None:
    """First word of a letter's or mark's Unicode name; None for anything else."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "").split()
    if words and words[0] in {"FULLWIDTH", "HALFWIDTH"}:
        words = words[1:]
    return words[0] if words else None
