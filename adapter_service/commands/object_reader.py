"""Reads a JSON object field by field and writes down every fault, so that a caller can mend them all at once.

A field at fault reads as if it were absent ("", false, an empty list), so that the rest can be read beside it. Whoever
has written down a fault throws away what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from adapter_service.commands.json_values import json_faults
from adapter_service.errors import FaultCode, InvalidSchemaError, SchemaFault
from adapter_service.suggestions import did_you_mean
from adapter_service.trace_ids import TRACE_ID, TRACE_ID_WISH

T = TypeVar("T")
MOST_FAULTS = 100
"""Nobody mends more at once; the rest is not looked at."""
_LONGEST_IN_PATH = 80
_LONGEST_TRACE_ID = 200


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many entries a list may have, and the codes of a fault where it has not so many."""

    most: int
    least: int = 0
    too_many: FaultCode = "too_large"
    too_few: FaultCode = "missing_field"


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def note(faults: list[SchemaFault], fault: SchemaFault) -> None:
    """Write down one more fault.

    Raises:
        InvalidSchemaError: with MOST_FAULTS and a last one, which says that the rest was not looked at.
    """
    if len(faults) >= MOST_FAULTS:
        message = f"there are more than {MOST_FAULTS} faults; the rest was not looked at: mend these first"
        raise InvalidSchemaError([*faults[:MOST_FAULTS], SchemaFault("", "too_large", message)])
    faults.append(fault)


def opened(body: Any) -> ObjectReader:
    """The reader of a whole body, with no fault as yet.

    Raises:
        InvalidSchemaError: it is no object, or there is something in it that is no JSON; with that alone.
    """
    if not isinstance(body, Mapping):
        raise InvalidSchemaError([SchemaFault("", "invalid_type", "the body is no JSON object; send one")])
    if faults := list(islice(json_faults(body, ""), MOST_FAULTS)):
        raise InvalidSchemaError(faults)
    return ObjectReader(body, "", [])


def read_trace_id(given: ObjectReader) -> str | None:
    """The field `trace_id`; it is echoed in a header."""
    trace_id = given.text("trace_id", longest=_LONGEST_TRACE_ID, required=False)
    if not trace_id:
        return None
    if not TRACE_ID.fullmatch(trace_id):
        given.fault("trace_id", "invalid_type", TRACE_ID_WISH)
    return trace_id


class ObjectReader:
    """Of `given` at `path`; what is wrong with it goes into `faults`."""

    def __init__(self, given: Mapping[str, Any], path: str, faults: list[SchemaFault]) -> None:
        self._given = given
        self._path = path
        self.faults = faults
        self._known: list[str] = []

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self._path}.{name}" if self._path else name

    def fault(self, name: str, code: FaultCode, message: str) -> None:
        note(self.faults, SchemaFault(self.at(name), code, message))

    def value(self, name: str) -> Any:
        """Whatever it is; None where it is null or absent."""
        self._known.append(name)
        return self._given.get(name)

    def text(self, name: str, *, longest: int, required: bool = True) -> str:
        """A text of at most `longest` characters, not of blanks alone where it is required."""
        value = self._of_kind(name, str, required=required)
        if value is None:
            return ""
        if required and not value.strip():
            self.fault(name, "missing_field", "it is blank; write something")
            return ""
        return self._short(name, value, longest)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._of_kind(name, bool, required=False)
        return default if value is None else value

    def number(self, name: str, *, least: float, most: float, whole: bool) -> float | int | None:
        """A number within its bounds; None where it is null, absent or at fault."""
        value = self.value(name)
        kind = "a whole number" if whole else "a number"
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            self.fault(name, "invalid_type", f"it is {kind_of(value)}; send {kind} from {least:g} to {most:g}")
        elif not least <= value <= most:
            self.fault(name, "out_of_range", f"it is {value}; send {kind} from {least:g} to {most:g}")
        else:
            found: float | int = value
            return found
        return None

    def mapping(self, name: str, bounds: Bounds) -> Mapping[str, Any]:
        """An object of any fields, which has to be there; nothing of one that is too large."""
        value = self._of_kind(name, dict, required=True) or {}
        if len(value) <= bounds.most:
            return value
        message = f"it has {len(value)} fields; at most {bounds.most} are allowed: take some out"
        self.fault(name, bounds.too_many, message)
        return {}

    def items(self, name: str, bounds: Bounds) -> list[Any]:
        """Of a list, which has to be there where `bounds` ask for an entry; of too long a list as many as allowed."""
        value = self._of_kind(name, list, required=bounds.least > 0)
        count = 0 if value is None else len(value)
        if count > bounds.most:
            message = f"it has {count} entries; at most {bounds.most} are allowed: take some out"
            self.fault(name, bounds.too_many, message)
        if value is not None and count < bounds.least:
            self.fault(name, bounds.too_few, f"it has {count} entries; at least {bounds.least} are needed: add some")
        return (value or [])[: bounds.most]

    def texts(self, name: str, bounds: Bounds, *, longest: int) -> tuple[str, ...]:
        """Of a list of texts."""
        found = []
        for place, item in enumerate(self.items(name, bounds)):
            at = f"{name}[{place}]"
            if isinstance(item, str):
                found.append(self._short(at, item, longest))
            else:
                self.fault(at, "invalid_type", f"it is {kind_of(item)}; send a text")
        return tuple(found)

    def objects(self, name: str, read: Callable[[ObjectReader], T], bounds: Bounds) -> list[tuple[int, T]]:
        """What `read` makes of each object of a list, with its place; it may have no others than `read` asks for."""
        found = []
        for place, item in enumerate(self.items(name, bounds)):
            at = f"{name}[{place}]"
            if not isinstance(item, Mapping):
                self.fault(at, "invalid_type", f"it is {kind_of(item)}; send an object")
                continue
            reader = ObjectReader(item, self.at(at), self.faults)
            found.append((place, read(reader)))
            reader.end()
        return found

    def end(self) -> None:
        """All fields that there may be have been asked for; whatever else is there is a fault."""
        for name in self._given:
            if name not in self._known:
                meant = did_you_mean(name, self._known)
                self.fault(
                    name[:_LONGEST_IN_PATH], "unknown_field", f"unknown field{meant} allowed: {', '.join(self._known)}"
                )

    def _of_kind(self, name: str, kind: type[T], *, required: bool) -> T | None:
        wanted = {str: "a text", bool: "true or false", list: "a list", dict: "an object"}[kind]
        value = self.value(name)
        if isinstance(value, kind):
            return value
        if value is not None:
            self.fault(name, "invalid_type", f"it is {kind_of(value)}; send {wanted}")
        elif required:
            self.fault(name, "missing_field", f"it is missing; send {wanted}")
        return None

    def _short(self, name: str, value: str, longest: int) -> str:
        if len(value) <= longest:
            return value
        self.fault(name, "too_long", f"it has {len(value)} characters; at most {longest} are allowed: shorten it")
        return ""


def repeated(names: Sequence[tuple[int, str]]) -> Iterator[tuple[int, int]]:
    """Of names with their places, the place of each that was there before, and the first one's; "" is no name."""
    first: dict[str, int] = {}
    for place, name in names:
        if name and first.setdefault(name, place) != place:
            yield place, first[name]
