"""Words of sentences in any script, for comparing and finding them."""

from __future__ import annotations

import re
import unicodedata

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_SIGN = re.compile(r"(?<!\w)[-‐–](?=\d)")
_MINUS = "\N{MINUS SIGN}"


def words(text: str) -> list[str]:
    """Lower case, compatibility forms composed; letters, their marks and digits, so that no vowel sign ends a word."""
    text = _folded(text)
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text).split()


def normalized(text: str) -> str:
    """What two sentences have in common that differ in case, blanks and punctuation alone.

    Symbols are no punctuation: "+", "°" and each emoji are words of their own. Nor is the hyphen of "-5", which becomes
    the minus sign, a symbol to Unicode; that of "Wi-Fi" and "covid-19" is.
    """
    signed = _SIGN.sub(_MINUS, _folded(text))
    return " ".join("".join(map(_apart, signed)).split())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _apart(char: str) -> str:
    category = unicodedata.category(char)[0]
    return f" {char} " if category == "S" else char if category in "LMN" else " "
