"""A parameter's date keys as the points in time that they stand for when the command is called."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.commands.date_keys import is_date_key, local_point, resolve
from adapter_service.commands.parameter_types import ParameterType


def resolved(value: Any, kind: ParameterType, now: datetime, zone: ZoneInfo) -> Any:
    """`value`, which is of `kind`, with its date keys resolved at `now` in `zone`; it is of `kind` again.

    The keys of a list are one phrase and stand where the first of them stood. A date that is to be a point in time is
    its first moment.

    Raises:
        InvalidParameterError: a key leads beyond the calendar.
    """
    if not kind.has_points_in_time:
        return value
    if not isinstance(value, list):
        return _projected(resolve([value], now, zone), kind, zone)[0] if is_date_key(value) else value
    keys = [one for one in value if is_date_key(one)]
    points = _projected(resolve(keys, now, zone), kind, zone)
    first = value.index(keys[0]) if keys else 0
    return [*value[:first], *points, *(one for one in value[first:] if one not in keys)]


def _projected(points: list[str], kind: ParameterType, zone: ZoneInfo) -> list[str]:
    """Dates and points in time as what `kind` is; times of one day several times over are one."""
    if kind.scalar == "date":
        return list(dict.fromkeys(point[:10] for point in points))
    if kind.scalar == "time":
        return list(dict.fromkeys(point[11:19] for point in points if "T" in point))
    return [point if "T" in point else local_point(date.fromisoformat(point), time(0), zone) for point in points]
