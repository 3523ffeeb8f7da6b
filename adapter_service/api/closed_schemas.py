"""JSON schemas that allow what they name and nothing else, where they leave that open.

By JSON Schema's rules an object may have properties that its schema does not name. A small model that is held to
such a schema makes up one after the other until its tokens are used up; whatever keeps to the closed schema keeps
to the open one too. (SmolLM2-135M, asked for a dog with name and age, came to no end within 64 tokens.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_BY_NAME = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "prefixItems")
# Beside these, an object's own properties are not all that it may have.
_MORE = frozenset({"additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref"})


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with `additionalProperties: false` wherever it names properties and does not say.

    One that joins parts with `allOf` comes back as it is: each part would forbid what the others name.
    """
    return dict(schema) if any("allOf" in part for part in _objects(schema)) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key in _BY_NAME:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: _closed(part) for name, part in made[key].items()}
    for key in _LISTS:
        if isinstance(made.get(key), list):
            made[key] = [_closed(part) for part in made[key]]
    if "items" in made:
        made["items"] = _closed(made["items"])
    if isinstance(made.get("properties"), Mapping) and not _MORE & made.keys():
        made["additionalProperties"] = False
    return made


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _objects(part)
