"""The types that a command's parameter may have, and which JSON values are of them.

A type is one of SCALARS or an array of one: `array<T>`, or in the older forms `array[T]` and `T[]`, which the SDK has
for times alone. Points in time are ISO 8601, or date keys (`tomorrow`) that become it when a command is called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from adapter_service.commands.date_keys import has_day, has_time, is_date_key, is_period

_TIMES = ("datetime", "date", "time", "timedelta")
_IN_ANGLES = (*_TIMES, "string", "int", "float", "bool")
# ISO 8601: PnW, or days and times of day, at least one of them.
_DURATION = re.compile(
    r"P(?!$)(?:[0-9]+W|(?:[0-9]+D)?(?:T(?=[0-9])(?:[0-9]+H)?(?:[0-9]+M)?(?:[0-9]+(?:\.[0-9]+)?S)?)?)"
)
_ARRAY = re.compile(r"array<(?P<angles>\w+)>|array\[(?P<square>\w+)\]|(?P<after>\w+)\[\]")


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_true_or_false(value: Any) -> bool:
    return isinstance(value, bool)


def _reads(read: Callable[[str], object], fits: Callable[[str], bool]) -> Callable[[Any], bool]:
    """Of texts that `read` takes, and date keys that fit."""

    def is_one(value: Any) -> bool:
        if not isinstance(value, str):
            return False
        if is_date_key(value):
            return fits(value)
        try:
            read(value)
        except ValueError:
            return False
        return True

    return is_one


def _is_duration(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, str) and _DURATION.fullmatch(value) is not None)


# What a list without a type of its own holds; nothing is called so.
_ANY = "any"
SCALARS: Mapping[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "string": _is_text,
    "int": _is_whole,
    "integer": _is_whole,
    "float": _is_number,
    "bool": _is_true_or_false,
    "boolean": _is_true_or_false,
    "dict": lambda value: isinstance(value, Mapping),
    "datetime": _reads(datetime.fromisoformat, is_date_key),
    "date": _reads(date.fromisoformat, has_day),
    "time": _reads(time.fromisoformat, has_time),
    "timedelta": _is_duration,
}
_MEANT = {
    "datetime": "an ISO 8601 point in time or a date key",
    "date": "an ISO 8601 date or a date key",
    "time": "an ISO 8601 time or a date key",
    "timedelta": "seconds or an ISO 8601 duration",
    "dict": "an object",
    "int": "a whole number",
    "integer": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "boolean": "true or false",
}
TYPE_NAMES = (
    *SCALARS,
    "list",
    "array",
    *(f"array<{name}>" for name in _IN_ANGLES),
    *(f"array[{name}]" for name in _TIMES),
    *(f"{name}[]" for name in _TIMES),
)


@dataclass(frozen=True, slots=True)
class ParameterType:
    """`scalar` is one of SCALARS, of an array's elements where `is_array`; `name` is how the hub wrote it."""

    name: str
    scalar: str
    is_array: bool = False

    @classmethod
    def named(cls, name: str) -> ParameterType | None:
        """None where there is no type of that name; TYPE_NAMES are all there are."""
        if name in SCALARS:
            return cls(name, name)
        if name in {"list", "array"}:
            return cls(name, _ANY, is_array=True)
        if (found := _ARRAY.fullmatch(name)) is None or name not in TYPE_NAMES:
            return None
        return cls(name, next(filter(None, found.groups())), is_array=True)

    def holds(self, value: Any) -> bool:
        """Whether a JSON value is of this type; an int is a float too, true is no number.

        A key of several days needs an array; in one, a key may say the time of another that says the day.
        """
        if not self.is_array:
            return self._holds_one(value) and not (self.has_points_in_time and is_period(value))
        if not isinstance(value, list):
            return False
        if self.has_points_in_time and any(isinstance(one, str) and is_date_key(one) for one in value):
            return all(isinstance(one, str) and (is_date_key(one) or self._holds_one(one)) for one in value) and any(
                self._holds_one(one) for one in value
            )
        return all(map(self._holds_one, value))

    def _holds_one(self, value: Any) -> bool:
        return self.scalar == _ANY or SCALARS[self.scalar](value)

    @property
    def element(self) -> ParameterType:
        """Of an array's elements; of no array, itself."""
        return ParameterType(self.scalar, self.scalar) if self.is_array else self

    @property
    def has_points_in_time(self) -> bool:
        """Whether date keys may stand in it."""
        return self.scalar in {"datetime", "date", "time"}

    @property
    def meant(self) -> str:
        """For messages: what a value is to be."""
        one = _MEANT.get(self.scalar, "a text")
        if not self.is_array:
            return one
        return "a list" if self.scalar == _ANY else f"a list, each of it {one}"
