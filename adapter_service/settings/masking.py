"""Which values are secret, and how they look where people read them."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
_SECRET_KEY = re.compile(
    r"token$|secret|passw|authorization|cookie|credential|api_?key|access_?key|private_?key|^(x-)?auth\b",
    re.IGNORECASE,
)
# Up to the last @ before the path: a password may have one too.
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s]+(?=@)")
_URL_SECRET = re.compile(r"(?<=[?&])([^=&#]*(?:token|secret|key|sig|signature|password)[^=&#]*)=[^&#]*", re.IGNORECASE)


def is_secret_key(key: str) -> bool:
    """Whether values under this key are secrets; numbers such as `max_new_tokens` are not meant."""
    return bool(_SECRET_KEY.search(key))


def masked(value: Any, key: str = "") -> Any:
    """The same structure with secrets as ***: by key, all of `headers`, and secrets inside URLs."""
    if isinstance(value, dict):
        in_headers = key.lower() == "headers"
        return {k: MASK if in_headers else masked(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, key) for item in value]
    if is_secret_key(key) and value is not None:
        return MASK
    if isinstance(value, str) and "://" in value:
        return _URL_SECRET.sub(rf"\1={MASK}", _URL_PASSWORD.sub(MASK, value))
    return value
