"""Text that is kept for outside evaluation: never shipped, never trained on."""

from __future__ import annotations

import hashlib

RESERVED_ARTICLES = frozenset({5, 11, 17, 23, 29})
"""Articles of the Universal Declaration of Human Rights."""

_ONE_IN = 20
_CLOSING_MARKS = " .:;!?…"


def is_reserved(english: str) -> bool:
    """True for the one English text in twenty that its own hash sets apart."""
    digest = hashlib.sha256(english.strip().lower().encode()).hexdigest()
    return int(digest[:8], 16) % _ONE_IN == 0


def is_reserved_in_some_form(english: str) -> bool:
    """True also where only the closing mark differs from a reserved text.

    Interfaces say "Add bookmark…", "Add bookmark" and "Add bookmark." for one thing, and
    shipping a sibling of a reserved text would give the answer away.
    """
    bare = english.strip().rstrip(_CLOSING_MARKS)
    return any(is_reserved(form) for form in (english, bare, f"{bare}."))
