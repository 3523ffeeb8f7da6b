"""Commands as functions, and the few words that a model gets of them."""

from __future__ import annotations

import json
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from adapter_service.commands.prompting import Context, call_text, line_of, system_text
from adapter_service.commands.tools import tool_of, tools_of
from adapter_service.engine.tool_calls import parse_tool_calls
from tests.commands.making import command, numbered, read

PARAMETERS = [
    {"name": "minutes", "type": "int", "description": "How long"},
    {"name": "label", "type": "string", "required": False, "enum_values": ["tea", "egg"], "default_value": "tea"},
    {"name": "ends", "type": "datetime[]", "required": False},
    {"name": "pause", "type": "timedelta", "required": False},
    {"name": "levels", "type": "array<int>", "required": False, "enum_values": [1, 2]},
]
TIMER = tool_of(
    read(
        command(
            "set_timer",
            ("x", {"minutes": 1}),
            description="Start a timer",
            parameters=PARAMETERS,
            rules=["Not in the prompt"],
            critical_rules=["Never guess the minutes"],
        )
    )[0]
)
NOW = datetime(2026, 1, 14, 15, 30, tzinfo=ZoneInfo("Europe/Berlin"))


def test_a_command_is_a_function_with_the_schema_of_its_arguments() -> None:
    assert TIMER.name == "set_timer"
    assert TIMER.description == "Start a timer. Never guess the minutes."
    assert TIMER.parameters == {
        "type": "object",
        "properties": {
            "minutes": {"type": "integer", "description": "How long"},
            "label": {"enum": ["tea", "egg"], "default": "tea"},
            "ends": {"type": "array", "items": {"type": "string", "format": "date-time"}},
            "pause": {"anyOf": [{"type": "number"}, {"type": "string", "format": "duration"}]},
            "levels": {"type": "array", "items": {"enum": [1, 2]}},
        },
        "required": ["minutes"],
        "additionalProperties": False,
    }


def test_a_function_is_one_short_line() -> None:
    assert line_of(TIMER) == (
        "set_timer(minutes: int, label?: tea|egg, ends?: [date-time], pause?: float|duration, levels?: [1|2]) "
        "Start a timer. Never guess the minutes."
    )
    assert len(line_of(TIMER)) < len(json.dumps(TIMER.parameters)) / 2


def test_what_all_sentences_of_a_node_share_comes_first() -> None:
    tools = tools_of(read(numbered("stop", 1), numbered("go", 1)))
    one = system_text(tools, Context(NOW, rooms=("kitchen", "hall")))
    other = system_text(tools, Context(NOW.replace(hour=16), devices=("lamp",)))
    shared = one[: one.index("Now: ")]
    assert other.startswith(shared)
    assert "stop() Does stop.\ngo() Does go.\n" in shared
    assert one.removeprefix(shared) == "Now: Wednesday, 2026-01-14 15:30.\nRooms: kitchen, hall."


@pytest.mark.parametrize("arguments", [{}, {"minutes": 10, "label": "चाय", "ends": ["tomorrow"], "on": True}])
def test_the_answer_that_is_taught_is_read_as_a_call(arguments: dict[str, object]) -> None:
    (call,) = parse_tool_calls(call_text("set_timer", arguments))
    assert (call.name, call.arguments) == ("set_timer", arguments)
