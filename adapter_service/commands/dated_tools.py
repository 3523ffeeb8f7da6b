"""Functions whose dates a model says as keys: the form that it is held to, and the ISO 8601 that becomes of it.

In a function's JSON schema a date is a string with a format (`tools.tool_of`), whoever wrote the schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.commands.date_keys import PATTERNS, STATIC_KEYS
from adapter_service.commands.parameter_types import ParameterType
from adapter_service.commands.resolving import resolved
from adapter_service.conversation import Tool
from adapter_service.errors import InvalidParameterError

_SCALARS = {"date-time": "datetime", "date": "date", "time": "time"}
# One key of each pattern, to see which of them a type takes.
_LIKE = {"in_{N}_minutes": "in_5_minutes", "in_{N}_days": "in_5_days", "at_{H}am|pm": "at_5am"}
# Every date that there is, but for the 29th of February.
_DAY_OF_MONTH = (
    r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = rf"[12][0-9]{{3}}-{_DAY_OF_MONTH}"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?"
_ISO = {"date": _DATE, "time": _TIME, "datetime": rf"{_DATE}T{_TIME}(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])?"}


def said_in_keys(tool: Tool) -> Tool:
    """The function with the vocabulary and ISO 8601, and no other text, wherever a date may stand among its arguments.

    A model is held to that; a grammar for the format itself would allow no key.
    """
    properties = {name: _in_keys(schema) for name, schema in _properties(tool).items()}
    return replace(tool, parameters={**tool.parameters, "properties": properties})


def with_dates(tool: Tool, arguments: Mapping[str, Any], now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """`arguments` with their date keys as ISO 8601 at `now`, in `zone`; anything else as it is.

    Raises:
        InvalidParameterError: a date that is neither a key nor ISO 8601, or beyond the calendar.
    """
    schemas, found = _properties(tool), {}
    for name, value in arguments.items():
        kind = _kind_of(schemas.get(name))
        if kind is not None and not kind.holds(value):
            raise InvalidParameterError(
                f"{tool.name} was to be called with {name} = {value!r}; it takes {kind.meant}", parameter=name
            )
        found[name] = value if kind is None else resolved(value, kind, now, zone)
    return found


def _properties(tool: Tool) -> Mapping[str, Any]:
    properties = tool.parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _kind_of(schema: Any) -> ParameterType | None:
    """The type of a date or of a list of dates; None of anything else."""
    if not isinstance(schema, Mapping) or "enum" in schema:
        return None
    if schema.get("type") == "array":
        inner = _kind_of(schema.get("items"))
        if inner is None or inner.is_array:
            return None
        return ParameterType(f"array<{inner.name}>", inner.name, is_array=True)
    scalar = _SCALARS.get(str(schema.get("format"))) if schema.get("type") == "string" else None
    return None if scalar is None else ParameterType(scalar, scalar)


def _in_keys(schema: Any) -> Any:
    kind = _kind_of(schema)
    if kind is None:
        return schema
    one = {"type": "string", "pattern": _pattern_of(kind)}
    return {"type": "array", "items": one} if kind.is_array else one


def _pattern_of(kind: ParameterType) -> str:
    """Of what may stand alone; in a list of points a key may say the time of another that says the day."""

    def holds(key: str) -> bool:
        return (kind.scalar != "date" or kind.holds([key])) if kind.is_array else kind.holds(key)

    keys = [re.escape(key) for key in STATIC_KEYS if holds(key)]
    keys += [pattern[1:-1] for name, pattern in PATTERNS.items() if holds(_LIKE[name])]
    return f"^({'|'.join([*keys, _ISO[kind.scalar]])})$"
