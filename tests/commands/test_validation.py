"""Command schemas as hubs send them: what is read, and every fault at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.commands.parameter_types import TYPE_NAMES
from adapter_service.commands.validation import read_commands
from adapter_service.errors import InvalidSchemaError
from adapter_service.settings import CommandSettings
from tests.commands import reference_validator
from tests.commands.reference_validator import ARRAY_TYPES, LONGEST_TEXT, SCALAR_TYPES, faults_of

BOUNDS = CommandSettings(min_examples=2, max_examples=5, max_commands=4, max_text_characters=LONGEST_TEXT)


def timer() -> dict[str, Any]:
    """A command as a node posts it, with every field that there is."""
    return {
        "command_name": "set_timer",
        "description": "Start a timer",
        "allow_direct_answer": False,
        "is_risky": False,
        "examples": [
            {
                "voice_command": "Set a timer for ten minutes",
                "expected_parameters": {"minutes": 10, "ends": ["today", "at_7pm"]},
                "is_primary": True,
            },
            {"voice_command": "Egg timer", "expected_parameters": {"minutes": 6, "label": "egg"}, "is_primary": False},
        ],
        "keywords": ["timer", "countdown"],
        "parameters": [
            {"name": "minutes", "type": "int", "description": "How long", "required": True},
            {
                "name": "label",
                "type": "string",
                "description": None,
                "required": False,
                "default_value": "tea",
                "enum_values": ["tea", "egg"],
                "options_source": None,
                "refinable": True,
            },
            {"name": "ends", "type": "array<datetime>", "required": False, "options_source": "devices:clock"},
        ],
        "rules": ["Seconds are no minutes"],
        "critical_rules": ["Never guess"],
        "antipatterns": [{"command_name": "set_alarm", "description": "A time of day is an alarm"}],
        "proposable_actions": [],
        "listening_signal_types": [],
    }


def found_in(schema: Any) -> list[tuple[str, str]]:
    try:
        read_commands(schema, BOUNDS)
    except InvalidSchemaError as error:
        return [(fault.path, fault.code) for fault in error.faults]
    return []


def changed(change: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    command = timer()
    change(command)
    return [command]


def test_a_whole_command_is_read_as_it_was_sent() -> None:
    (command,) = read_commands([timer()], BOUNDS)
    assert (command.command_name, command.keywords, command.critical_rules) == (
        "set_timer", ("timer", "countdown"), ("Never guess",),
    )  # fmt: skip
    assert command.examples[0].expected_parameters == {"minutes": 10, "ends": ["today", "at_7pm"]}
    assert [example.is_primary for example in command.examples] == [True, False]
    label = command.parameter("label")
    assert label is not None
    assert (label.required, label.default_value, label.enum_values, label.refinable) == (
        False, "tea", ("tea", "egg"), True,
    )  # fmt: skip
    ends = command.parameter("ends")
    assert ends is not None
    assert (ends.type.name, ends.type.scalar, ends.type.is_array) == ("array<datetime>", "datetime", True)
    assert command.antipatterns[0].command_name == "set_alarm"


def test_what_is_left_out_has_the_sdks_defaults() -> None:
    least = {"command_name": "stop", "description": "Stop", "parameters": [{"name": "what", "type": "str"}]}
    examples: list[Any] = [{"voice_command": text, "expected_parameters": {}} for text in ("stop", "enough")]
    (command,) = read_commands([least | {"examples": examples}], BOUNDS)
    assert (command.is_risky, command.allow_direct_answer, command.antipatterns) == (False, False, ())
    assert command.parameters[0].required
    assert not command.examples[0].is_primary


def test_every_fault_is_named_at_once_with_its_path() -> None:
    first, second = timer(), timer()
    first["examples"][1]["is_primary"] = True
    first["examples"][1]["expected_parameters"] = {"label": "soup", "colour": "red"}
    first["parameters"][0]["type"] = "integr"
    second["examples"] = second["examples"][:1]
    second["keywrds"] = []
    del second["description"]
    assert found_in([first, second, 7]) == [
        ("command_schema[0].parameters[0].type", "invalid_type"),
        ("command_schema[0].examples[1].expected_parameters.label", "not_in_enum"),
        ("command_schema[0].examples[1].expected_parameters.colour", "undeclared_parameter"),
        ("command_schema[0].examples", "multiple_primary"),
        ("command_schema[1].description", "missing_field"),
        ("command_schema[1].examples", "too_few_examples"),
        ("command_schema[1].keywrds", "unknown_field"),
        ("command_schema[2]", "invalid_type"),
        ("command_schema[1].command_name", "duplicate_name"),
    ]


def test_a_message_says_what_was_found_what_is_allowed_and_what_was_meant() -> None:
    with pytest.raises(InvalidSchemaError) as caught:
        read_commands(changed(lambda command: command["parameters"][0].update(type="integr")), BOUNDS)
    assert "\"integr\" is no type; did you mean 'integer'? allowed: str, string, int," in caught.value.faults[0].message


@pytest.mark.parametrize("name", sorted({*SCALAR_TYPES, *ARRAY_TYPES}))
def test_every_type_of_the_sdk_is_known(name: str) -> None:
    assert name in TYPE_NAMES
    plain = {"name": "x", "type": name}
    assert found_in(changed(lambda command: command["parameters"].append(plain))) == []


@pytest.mark.parametrize("name", ["array<list>", "array[string]", "string[]", "array<>", "Array<int>", "null", "any"])
def test_there_are_no_other_types(name: str) -> None:
    found = found_in(changed(lambda command: command["parameters"][2].update(type=name)))
    assert found == [("command_schema[0].parameters[2].type", "invalid_type")]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("float", [1, 1.5], [True, "1"]),
        ("int", [3], [3.0, True]),
        ("bool", [False], [0, "no"]),
        ("datetime", ["2026-02-01T10:00:00+01:00", "tomorrow", "in_20_minutes"], ["soon", 5]),
        ("date", ["2026-02-01", "next_monday"], ["01.02.2026"]),
        ("time", ["10:30", "at_noon"], ["25:00"]),
        ("timedelta", [90, 1.5, "PT1H30M", "P2W", "P1DT2H"], ["P", "PT", "an hour"]),
        ("array<float>", [[], [1, 2.5]], [1.0, ["x"]]),
        ("date[]", [["today", "2026-02-01"]], ["today"]),
        ("dict", [{}], [[]]),
        ("date", ["tomorrow_morning", "in_3_days"], ["this_weekend", "noon", "at_7am"]),
        ("time", ["at_7am", "tonight", "in_5_minutes"], ["tomorrow", "next_monday"]),
        ("datetime", ["noon", "today"], ["next_week", "this_weekend"]),
        ("array<date>", [["this_weekend"], ["tomorrow", "noon"]], [["noon"], ["tomorrow", 5]]),
        ("array<time>", [["tomorrow", "at_7am"]], [["tomorrow"]]),
        ("timedelta", ["P3D"], ["P٣D"]),
    ],
)
def test_an_examples_values_are_of_the_parameters_type(kind: str, good: list[Any], bad: list[Any]) -> None:
    def with_value(value: Any) -> list[dict[str, Any]]:
        command = timer()
        command["parameters"][2]["type"] = kind
        for example in command["examples"]:
            example["expected_parameters"] = {"ends": value}
        return [command]

    assert [found_in(with_value(value)) for value in good] == [[]] * len(good)
    for value in bad:
        assert {code for _, code in found_in(with_value(value))} == {"invalid_type"}


def test_of_a_list_every_entry_is_one_of_the_values() -> None:
    command = timer()
    command["parameters"][1].update(type="array<string>", default_value=["tea"])
    command["examples"][1]["expected_parameters"] = {"label": ["tea", "egg"]}
    assert found_in([command]) == []
    command["examples"][1]["expected_parameters"] = {"label": ["tea", "soup"]}
    assert found_in([command]) == [("command_schema[0].examples[1].expected_parameters.label", "not_in_enum")]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (float("nan"), "invalid_type"),
        (10**400, "invalid_type"),
        ("\ud800", "invalid_type"),
        ({1: 2}, "invalid_type"),
        ({"a": {True: 1}}, "invalid_type"),
        (date(2026, 1, 1), "invalid_type"),
        (nested(100_000), "too_large"),
        ([[float("inf")]], "invalid_type"),
    ],
)
def test_what_is_no_json_is_a_fault_and_nothing_else(value: Any, code: str) -> None:
    found = found_in(changed(lambda command: command["examples"][0].update(expected_parameters={"x": value})))
    assert {one for _, one in found} == {code}
    assert all(path.startswith("command_schema[0].examples[0].expected_parameters.x") for path, _ in found)


def test_a_number_of_thousands_of_digits_is_a_fault_like_another() -> None:
    huge = {"x": 10**5000}  # not in the table above: a test's name cannot have it
    found = found_in(changed(lambda command: command["examples"][0].update(expected_parameters=huge)))
    assert found == [("command_schema[0].examples[0].expected_parameters.x", "invalid_type")]


def test_faults_are_short_however_long_what_is_wrong() -> None:
    command = timer()
    command["parameters"][1]["enum_values"] = ["x" * 40] * 200
    command["examples"][0]["expected_parameters"] = {f"{'n' * 90}{number}": "y" * 4000 for number in range(60)}
    command["examples"][1]["expected_parameters"] = {"label": "z" * 4000}
    with pytest.raises(InvalidSchemaError) as caught:
        read_commands([command], BOUNDS)
    assert max(len(fault.path) + len(fault.message) for fault in caught.value.faults) < 1000
    assert "and 190 more" in str(caught.value.faults[-1].message)


def test_many_commands_of_one_name_are_looked_through_at_once() -> None:
    found = found_in([{"command_name": "a"}] * 20_000)
    assert ("command_schema", "too_large") in found
    assert [path for path, code in found if code == "duplicate_name"] == [
        f"command_schema[{place}].command_name" for place in (1, 2, 3)
    ]


def test_null_says_nothing_of_a_parameter_that_may_be_left_out() -> None:
    command = timer()
    command["examples"][0]["expected_parameters"] = {"minutes": 10, "label": None}
    (read,) = read_commands([command], BOUNDS)
    assert read.examples[0].expected_parameters == {"minutes": 10}
    command["examples"][0]["expected_parameters"] = {"minutes": None}
    assert found_in([command]) == [("command_schema[0].examples[0].expected_parameters.minutes", "invalid_type")]


@pytest.mark.parametrize(
    ("values", "value", "is_one"),
    [(["tea"], ["tea"], True), (["tea"], ["soup"], False), ([[1]], [[True]], False), ([{"a": 1}], [{"a": 1}], True)],
)
def test_the_values_of_a_list_are_its_entries(values: list[Any], value: list[Any], *, is_one: bool) -> None:
    command = timer()
    command["parameters"][1].update(type="list", enum_values=values, default_value=None)
    command["examples"][1]["expected_parameters"] = {"label": value}
    assert [code for _, code in found_in([command])] == ([] if is_one else ["not_in_enum"])


def test_a_schema_that_is_too_large_is_not_looked_through() -> None:
    large = [timer() | {"description": "x" * 600_000}]
    assert found_in(large) == [("command_schema", "too_large")]
    assert reference_validator.size_of(large) > BOUNDS.max_schema_bytes


def test_the_field_is_called_as_the_hub_called_it() -> None:
    with pytest.raises(InvalidSchemaError) as caught:
        read_commands([], BOUNDS, field="available_commands")
    assert [(fault.path, fault.code) for fault in caught.value.faults] == [("available_commands", "missing_field")]


# Generated schemas: a good one in which some things are changed.

KEYS = {"today", "tomorrow", "this_weekend", "noon", "tomorrow_morning", "at_7pm"}
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", " ", "x" * 41, "x" * 65, "a b", "é", 0, 7, 1.0, 1.5, True, False, [], ["tea"], [1], [True], [1.0], {},
     {"a": 1}, [[]], "int", "list", "date", "time", "datetime", "array<date>", "array<time>", "2026-02-01", "P2D",
     "tomorrow", "this_weekend", "noon", "tomorrow_morning", ["noon"], ["tomorrow", "noon"], ["2026-02-01", "today"],
     "devices:light", "set_timer"]
)  # fmt: skip
FIELDS = st.sampled_from(sorted({*timer(), *timer()["parameters"][1], *timer()["examples"][0], "keyword", "x"}))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every object's field and every list's entry, as its holder and its key."""
    if isinstance(value, dict):
        below = list(value.items())
    elif isinstance(value, list):
        below = list(enumerate(value))
    else:
        return []
    return [place for key, inner in below for place in [(value, key), *places(inner)]]


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    schema: list[Any] = [timer(), timer() | {"command_name": "set_alarm"}]
    for _ in range(draw(st.integers(0, 5))):
        if not (all_places := places(schema)):
            break
        holder, key = draw(st.sampled_from(all_places))
        match draw(st.sampled_from(["replace", "remove", "repeat", "add"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(ODD))
            case "remove":
                del holder[key]
            case "repeat" if isinstance(holder, list):
                holder.extend(copy.deepcopy([holder[key]] * draw(st.integers(1, 4))))
            case _:
                if isinstance(holder, dict):
                    holder[draw(FIELDS)] = copy.deepcopy(draw(ODD))
    return schema


@settings(max_examples=2000, deadline=None)
@given(schemas())
def test_two_validators_find_the_same_faults(schema: Any) -> None:
    found = found_in(schema)
    assert len(found) == len(set(found))
    assert set(found) == faults_of(schema, KEYS)
    if not found:
        assert json.loads(json.dumps([command.command_name for command in read_commands(schema, BOUNDS)]))
