"""The form of tool calls, and reading it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.conversation import Tool
from adapter_service.engine.tool_calls import ReadCall, parse_tool_calls, tool_call_grammar
from adapter_service.errors import InvalidParameterError, ToolCallFormatError
from tests.engine.test_constraints import COMPILER, accepts, written

LAMP = Tool(
    "lamp",
    {
        "properties": {"room": {"$ref": "#/$defs/Room"}},
        "required": ["room"],
        "additionalProperties": False,
        "$defs": {"Room": {"enum": ["hall", "किचन"]}},
    },
)
DOOR = Tool('"door"\n', {"type": "object", "properties": {"open": {"type": "boolean"}}, "additionalProperties": False})
ANY = Tool("any", {})
IN_HALL = '{"name": "lamp", "arguments": {"room": "hall"}}'
CLOSED = json.dumps({"name": '"door"\n', "arguments": {"open": False}})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (IN_HALL, True),
        ('{"name": "lamp", "arguments": {"room": "किचन"}}', True),
        (CLOSED, True),
        ('{"name": "any", "arguments": {"x": [1]}}', True),
        ('{"name": "lamp", "arguments": {"open": true}}', False),
        ('{"name": "none", "arguments": {}}', False),
        ('{"name": "any", "arguments": 3}', False),
        (f"[{IN_HALL}]", False),
        (f"{IN_HALL}{IN_HALL}", False),
    ],
)
def test_one_of_the_tools_is_called_with_arguments_of_its_own(text: str, wanted: bool) -> None:
    assert accepts(tool_call_grammar([LAMP, DOOR, ANY]), text) == wanted


def test_the_tool_that_is_named_is_the_one() -> None:
    grammar = tool_call_grammar([LAMP, DOOR, ANY], "lamp")
    assert accepts(grammar, IN_HALL)
    assert not accepts(grammar, CLOSED)


@pytest.mark.parametrize(
    ("text", "wanted"), [(f"[{IN_HALL}]", True), (f"[{IN_HALL}, {CLOSED}]", True), ("[]", False), (IN_HALL, False)]
)
def test_several_calls_are_a_list_of_at_least_one(text: str, wanted: bool) -> None:
    assert accepts(tool_call_grammar([LAMP, DOOR], parallel=True), text) == wanted


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_written_in_the_form_is_read(seed: int, parallel: bool) -> None:
    calls = parse_tool_calls(written(tool_call_grammar([LAMP, DOOR], parallel=parallel), seed))
    assert {call.name for call in calls} <= {"lamp", '"door"\n'}
    assert all(call.arguments["room"] in {"hall", "किचन"} for call in calls if call.name == "lamp")


def test_arguments_are_told_as_text_too() -> None:
    (call,) = parse_tool_calls(' {"arguments": {"room": "किचन"}, "name": "lamp"}\n')
    assert call == ReadCall("lamp", {"room": "किचन"})
    assert call.arguments_json == '{"room": "किचन"}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Sure!", "no JSON"),
        (IN_HALL[:-2], "not to its end"),
        ("[" * 100_000, "no JSON"),
        ("[]", "empty list"),
        ("3", "and is 3"),
        ('{"name": "lamp"}', "object with name and arguments"),
        ('{"name": "lamp", "arguments": {}, "more": 1}', "object with name and arguments"),
        ('{"name": 1, "arguments": {}}', "a text as its name"),
        ('{"name": "lamp", "arguments": "{}"}', "an object as its arguments"),
    ],
)
def test_what_is_no_call_is_told(text: str, reason: str) -> None:
    with pytest.raises(ToolCallFormatError, match=reason):
        parse_tool_calls(text)


@given(st.text(max_size=20) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
@settings(deadline=None)
def test_no_text_is_read_otherwise_than_as_calls_or_an_error(text: str) -> None:
    with contextlib.suppress(ToolCallFormatError):
        assert parse_tool_calls(text)


@pytest.mark.parametrize(
    ("tools", "name", "parameter", "message"),
    [
        ([], None, "tools", "no tools are given"),
        ([LAMP], "door", "tool_choice", "no tool 'door'; the request's tools: lamp"),
        ([Tool("x", {"type": "string"})], None, "tools", "of type 'string'"),
    ],
)
def test_tools_that_cannot_be_called_are_refused(
    tools: list[Tool], name: str | None, parameter: str, message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message) as error:
        tool_call_grammar(tools, name)
    assert error.value.parameter == parameter


def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason() -> None:
    with pytest.raises(
        InvalidParameterError, match=r"tools cannot be followed: this service does not know 'if' in a schema"
    ):
        COMPILER.compile(tool_call_grammar([Tool("x", {"if": {}})]))
