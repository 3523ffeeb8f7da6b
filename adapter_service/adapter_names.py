"""What an adapter may be called: the one pattern, and the names that mean something else."""

from __future__ import annotations

import re

PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
BASE = "base"
RESERVED = {BASE: "the base model alone", "none": "no adapter at all"}
_NAME = re.compile(PATTERN)


def fault_of(name: str) -> str | None:
    """What speaks against the name, with what is allowed; None for a good one."""
    if _NAME.fullmatch(name) is None:
        return "the name is not allowed; use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
    if name in RESERVED:
        return f"the name is reserved (it means {RESERVED[name]}); choose another"
    return None
