"""Ids of rows that clients name: a prefix and a ULID, so that they sort by time and cannot be guessed."""

from __future__ import annotations

import re
import secrets
from datetime import datetime

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(rf"[{_CROCKFORD}]{{26}}")


def new_id(prefix: str, now: datetime) -> str:
    """`prefix` and a ULID: 48 bits of milliseconds, 80 random bits."""
    value = (int(now.timestamp() * 1000) << 80) | secrets.randbits(80)
    return prefix + "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` has the form of such an id, so that it may become a file's name."""
    return text.startswith(prefix) and _ULID.fullmatch(text[len(prefix) :]) is not None
