"""Where a record of a file ends, and what was found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file: offset in bytes (of the decompressed text), and lines or records before it.

    In a file of columns a record has no offset of its own: `byte` stays 0, and `line` counts the rows.
    """

    byte: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One record (`fields`) or the fault in its place, and the place after it."""

    end: Place
    fields: Mapping[str, Any] | None
    fault: str = ""
