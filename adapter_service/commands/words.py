"""Words of sentences in any script, for comparing and finding them."""

from __future__ import annotations

import re
import unicodedata

_ASCII_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower case, compatibility forms composed; letters, their marks and digits, so that no vowel sign ends a word."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text).split()


def normalized(text: str) -> str:
    """What two sentences have in common that differ in case, blanks and punctuation alone."""
    return " ".join(words(text))
