"""What a value has to be so that it can be written as JSON, hashed and taught: looked at before anything else is.

A body that came over HTTP has mostly been through this already; a file, or a hub's library, has not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from adapter_service.errors import SchemaFault

_DEEPEST = 32
_LARGEST_WHOLE = 2**63
_LONGEST_SHOWN = 80
_MOST_NAMED = 10


def json_faults(value: Any, path: str) -> Iterator[SchemaFault]:
    """Whatever in `value` is no JSON that every program reads alike; not recursive, so that no depth can harm."""
    rest = [(path, value, 0)]
    while rest:
        at, inner, depth = rest.pop()
        if isinstance(inner, Mapping | list):
            if depth == _DEEPEST:
                yield SchemaFault(at, "too_large", f"it lies {depth} levels deep; {_DEEPEST} at most: flatten it")
            elif isinstance(inner, list):
                rest += [(f"{at}[{place}]", item, depth + 1) for place, item in enumerate(inner)]
            else:
                before = f"{at}." if at else ""
                rest += [(f"{before}{_name(name)}", item, depth + 1) for name, item in inner.items()]
                rest += [(f"{at} (the name of a field)".lstrip(), name, -1) for name in inner]
        elif (message := _fault_of(inner, is_name=depth < 0)) is not None:
            yield SchemaFault(at, "invalid_type", message)


def shown(value: Any) -> str:
    """A value as JSON for a message, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def some_of(names: list[str]) -> str:
    """Names for a message, the first of them where they are many."""
    more = len(names) - _MOST_NAMED
    return ", ".join([*names[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]) or "none"


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; 1 and 1.0 are, 1 and true are not, at any depth."""
    if isinstance(one, Mapping | list) or isinstance(other, Mapping | list):
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _fault_of(value: Any, *, is_name: bool) -> str | None:
    if isinstance(value, str):
        return None if _is_whole_text(value) else "it has half a character; send both halves, or take it out"
    if is_name:
        return f"it is {value!r}; the names of fields are texts: quote it"
    if isinstance(value, float) and not math.isfinite(value):
        return f"it is {value}, which is no JSON; send a finite number"
    if isinstance(value, int) and abs(value) >= _LARGEST_WHOLE:
        return "it is a number of more than 64 bits; send a smaller one, or a text"
    return None if value is None or isinstance(value, int | float) else f"it is a {type(value).__name__}; send a text"


def _is_whole_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(name: Any) -> str:
    return name if isinstance(name, str) and name.isprintable() else repr(name)[:_LONGEST_SHOWN]
