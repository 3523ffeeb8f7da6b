"""Tables of other people's text in Markdown, where an answer may hold anything."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_ACTIVE = re.compile(r"([\\`*_\[\]~|#])")


def escape(text: str) -> str:
    """`text` as it is, on one line, with nothing in it taken for markup."""
    return _ACTIVE.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells that are not numbers are escaped, numbers are set right."""
    listed = [[_cell(value) for value in row] for row in rows]
    lines = [list(map(escape, header)), ["---"] * len(header), *listed]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    return escape(str(value))
