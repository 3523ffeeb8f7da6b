"""A second validator of command schemas, written from the specification alone: tables, and what they say.

It knows nothing of the one that it is compared with, and finds (path, code) of every fault.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

Found = tuple[str, str]

TIMES = ["datetime", "date", "time", "timedelta"]
SCALAR_TYPES = ["str", "string", "int", "integer", "float", "bool", "boolean", "dict", *TIMES]
ARRAY_TYPES = {
    "list": "anything",
    "array": "anything",
    **{f"array<{name}>": name for name in [*TIMES, "string", "int", "float", "bool"]},
    **{f"array[{name}]": name for name in TIMES},
    **{f"{name}[]": name for name in TIMES},
}
# What stands in an object: the kind of each field, and a ! where it has to be there.
COMMAND = {
    "command_name": "name!", "description": "text!", "parameters": "parameter*", "examples": "example*!",
    "antipatterns": "antipattern*", "keywords": "text*", "rules": "text*", "critical_rules": "text*",
    "proposable_actions": "text*", "listening_signal_types": "text*", "allow_direct_answer": "flag",
    "is_risky": "flag",
}  # fmt: skip
PARAMETER = {
    "name": "name!", "type": "type!", "description": "text", "required": "flag", "default_value": "any",
    "enum_values": "any*", "options_source": "text", "refinable": "flag",
}  # fmt: skip
EXAMPLE = {"voice_command": "text!", "expected_parameters": "object!", "is_primary": "flag"}
ANTIPATTERN = {"command_name": "name!", "description": "text!"}
TABLES = {"command": COMMAND, "parameter": PARAMETER, "example": EXAMPLE, "antipattern": ANTIPATTERN}
MOST = {"command": 4, "parameter": 64, "example": 5, "antipattern": 64, "text": 64, "any": 256}
LEAST = {"command": 1, "example": 2}
TOO_MANY, TOO_FEW = {"example": "too_many_examples"}, {"example": "too_few_examples", "command": "missing_field"}
LONGEST_TEXT, LONGEST_NAME = 40, 64


def faults_of(schema: Any, date_keys: set[str]) -> set[Found]:
    found = set(_field("command_schema", schema, "command*", required=True))
    if isinstance(schema, list):
        first = schema[: MOST["command"]]
        commands = [(f"command_schema[{i}]", one) for i, one in enumerate(first) if isinstance(one, dict)]
        found |= set(_twice([(f"{path}.command_name", one.get("command_name")) for path, one in commands]))
        for path, command in commands:
            found |= set(_meaning(path, command, date_keys))
    return found


def _object(path: str, value: Any, table: dict[str, str]) -> Iterator[Found]:
    for name in value:
        if name not in table:
            yield f"{path}.{name}", "unknown_field"
    for name, kind in table.items():
        yield from _field(f"{path}.{name}", value.get(name), kind.rstrip("!"), required=kind.endswith("!"))


def _field(path: str, value: Any, kind: str, *, required: bool) -> Iterator[Found]:
    wanted: Any = {"flag": bool, "object": dict}.get(kind, list if kind.endswith("*") else str)
    if kind == "any":
        return
    if value is None:
        if required:
            yield path, "missing_field"
    elif not isinstance(value, wanted):
        yield path, "invalid_type"
    elif kind.endswith("*"):
        yield from _list(path, value, kind[:-1])
    elif kind not in {"flag", "object"}:
        yield from _text(path, value, kind, required=required)


def _text(path: str, value: str, kind: str, *, required: bool) -> Iterator[Found]:
    if required and not value.split():
        yield path, "missing_field"
    elif len(value) > (LONGEST_TEXT if kind == "text" else LONGEST_NAME):
        yield path, "too_long"
    elif (kind == "name" and re.search(r"[^\w-]|[^\x00-\x7f]", value)) or (kind == "type" and not _scalar(value)):
        yield path, "invalid_type"


def _list(path: str, values: list[Any], kind: str) -> Iterator[Found]:
    if len(values) > MOST[kind]:
        yield path, TOO_MANY.get(kind, "too_large")
    if len(values) < LEAST.get(kind, 0):
        yield path, TOO_FEW[kind]
    for place, one in enumerate(values[: MOST[kind]]):
        at = f"{path}[{place}]"
        if kind == "any":
            if isinstance(one, str) and len(one) > LONGEST_TEXT:
                yield at, "too_long"
            continue
        if not isinstance(one, dict if kind in TABLES else str):
            yield at, "invalid_type"
        elif kind in TABLES:
            yield from _object(at, one, TABLES[kind])
        elif len(one) > LONGEST_TEXT:
            yield at, "too_long"


def _meaning(path: str, command: dict[str, Any], keys: set[str]) -> Iterator[Found]:
    """What one field says about another."""
    parameters = [(i, one) for i, one in enumerate(_given(command, "parameters")) if isinstance(one, dict)]
    examples = [(i, one) for i, one in enumerate(_given(command, "examples")) if isinstance(one, dict)]
    yield from _twice([(f"{path}.parameters[{i}].name", one.get("name")) for i, one in parameters])
    for i, one in parameters:
        yield from _parameter(f"{path}.parameters[{i}]", one, keys)
    # Of several of one name the last one counts, as in any JSON object.
    named = {one["name"]: one for _, one in parameters if _is_name(one.get("name"))}
    some_name_is_at_fault = any(not _is_name(one.get("name")) for _, one in parameters)
    for i, example in examples:
        expected = example.get("expected_parameters")
        for name, value in (expected if isinstance(expected, dict) else {}).items():
            at = f"{path}.examples[{i}].expected_parameters.{name}"
            if name in named:
                if value is not None or named[name].get("required") in (None, True) or _odd_flag(named[name]):
                    yield from _value(at, value, named[name], keys)
            elif not some_name_is_at_fault:
                yield at, "undeclared_parameter"
    if sum(example.get("is_primary") is True for _, example in examples) > 1:
        yield f"{path}.examples", "multiple_primary"


def _parameter(at: str, one: dict[str, Any], keys: set[str]) -> Iterator[Found]:
    source: Any = one.get("options_source")
    kind = one.get("type")
    known = r"(devices(:[a-z0-9_.-]+)?|rooms|news_categories)?"
    if _is_text(source, LONGEST_TEXT) and not re.fullmatch(known, source):
        yield f"{at}.options_source", "not_in_enum"
    if isinstance(kind, str) and _scalar(kind):
        for j, value in enumerate(_given(one, "enum_values")):
            if not _is_of(value, _scalar(kind), keys):
                yield f"{at}.enum_values[{j}]", "invalid_type"
        if one.get("default_value") is not None:
            yield from _value(f"{at}.default_value", one["default_value"], one, keys)


def _odd_flag(parameter: dict[str, Any]) -> bool:
    """What is no flag counts as left out, so as true."""
    return not isinstance(parameter.get("required"), bool)


# Which of the keys that are used here say a day, a time, or several days.
DAYS = {"tomorrow", "today", "this_weekend", "next_monday", "tomorrow_morning"}
HOURS = {"at_7pm", "noon", "tomorrow_morning"}
SEVERAL = {"this_weekend"}


def _value(path: str, value: Any, parameter: dict[str, Any], keys: set[str]) -> Iterator[Found]:
    kind = parameter.get("type")
    if not isinstance(kind, str) or not _scalar(kind):
        return
    scalar, is_list = _scalar(kind), kind in ARRAY_TYPES
    values = value if is_list else [value]
    if not isinstance(values, list) or not _all_are(values, scalar, is_list=is_list, keys=keys):
        yield path, "invalid_type"
    elif (allowed := _given(parameter, "enum_values")) and [one for one in values if not _in(one, allowed)]:
        yield path, "not_in_enum"


def _all_are(values: list[Any], scalar: str, *, is_list: bool, keys: set[str]) -> bool:
    phrase = [one for one in values if isinstance(one, str) and one in keys]
    if scalar not in {"date", "datetime", "time"} or not phrase:
        return all(_is_of(one, scalar, keys) for one in values)
    if not is_list:
        return phrase[0] not in SEVERAL and _is_of(phrase[0], scalar, keys)
    others_are = all(_is_of(one, scalar, keys) for one in values if one not in phrase)
    return others_are and any(_is_of(one, scalar, keys) for one in values)


def _in(value: Any, allowed: list[Any]) -> bool:
    """1 is 1.0 and no true."""
    return any(value == one and (value is True or value is False) == (one is True or one is False) for one in allowed)


PYTHON: dict[str, Any] = {
    "str": str, "string": str, "int": int, "integer": int, "bool": bool, "boolean": bool, "dict": dict,
    "anything": object,
}  # fmt: skip


def _is_of(value: Any, scalar: str, keys: set[str]) -> bool:
    if scalar in PYTHON:
        return isinstance(value, PYTHON[scalar]) and (type(value) is not bool or PYTHON[scalar] in {bool, object})
    number = type(value) is int or (type(value) is float and math.isfinite(value))
    if scalar in {"float", "timedelta"} and number:
        return True
    if type(value) is not str or scalar == "float":
        return False
    if scalar == "timedelta":
        return value in {"PT1H", "P2D", "P1DT12H"}
    if value in keys:
        return value in {"date": DAYS, "time": HOURS}.get(scalar, keys)
    return _parses({"datetime": datetime, "date": date, "time": time}[scalar], value)


def _parses(kind: Any, text: str) -> bool:
    try:
        kind.fromisoformat(text)
    except ValueError:
        return False
    return True


def _scalar(kind: str) -> str:
    """ "" where there is no such type."""
    return kind if kind in SCALAR_TYPES else ARRAY_TYPES.get(kind, "")


def _given(holder: dict[str, Any], name: str) -> list[Any]:
    """Of a list that is too long the first ones are looked at."""
    value = holder.get(name)
    most = {"examples": MOST["example"], "parameters": MOST["parameter"], "enum_values": MOST["any"]}[name]
    return value[:most] if isinstance(value, list) else []


def _is_text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest


def _is_name(value: Any) -> bool:
    return _is_text(value, LONGEST_NAME) and re.fullmatch("[A-Za-z0-9_-]+", value) is not None


def _twice(names: list[tuple[str, Any]]) -> Iterator[Found]:
    seen = Counter[str]()
    for path, name in names:
        if _is_name(name):
            seen[name] += 1
            if seen[name] > 1:
                yield path, "duplicate_name"


def size_of(schema: Any) -> int:
    return len(json.dumps(schema, ensure_ascii=False).encode())
