"""What was probably meant by a word that is not known, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SIMILARITY = 0.6


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """To stand after the word found and before what is allowed: "; did you mean 'alpha'?", else ";"."""
    close = closest(word, allowed)
    return ";" if close is None else f"; did you mean '{close}'?"


def closest(word: str, allowed: Iterable[str]) -> str | None:
    """The likeliest of those that are close; people err less in the first letter than in the others."""
    close = difflib.get_close_matches(word, list(allowed), n=5, cutoff=_SIMILARITY)
    return next((known for known in close if known[:1] == word[:1]), close[0] if close else None)
