"""An answer's text as content and calls, however it is cut into pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.api.tool_calls import AnswerParts, CallPiece, Content, Part, ToolUse
from adapter_service.conversation import Tool

TOOLS = (Tool("get_weather", {"type": "object"}), Tool("get_time", {"type": "object"}))
AUTO = ToolUse(TOOLS, "auto")
PARALLEL = ToolUse(TOOLS, "auto", parallel=True)
FORCED = ToolUse(TOOLS, "forced", parallel=True)
WEATHER = '{"name": "get_weather", "arguments": {"city": "पुणे \\"{\\\\"}}'
TIME = '{"name": "get_time", "arguments": {}}'
NOT_CALLS = [
    "It is warm.",
    "",
    " {",
    '{"city": "Pune"}',
    '{"name": "get_weather"}',
    f"{WEATHER} and more",
    '{"name": "launch", "arguments": {}}',
    f"[{WEATHER}, {TIME}]",
    '{"name": "get_weather", "arguments": {"city": ',
]


def cut(text: str, places: list[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(borders)]


def parts_of(use: ToolUse, pieces: list[str]) -> list[Part]:
    parts = AnswerParts(use)
    return [*(part for piece in pieces for part in parts.push(piece)), *parts.finish()]


def text_of(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Content))


def calls_of(parts: list[Part]) -> list[tuple[str, Any]]:
    pieces = [part for part in parts if isinstance(part, CallPiece)]
    names = {piece.index: piece.name for piece in pieces if piece.name}
    arguments = {index: "".join(p.arguments for p in pieces if p.index == index) for index in names}
    return [(name or "", json.loads(arguments[index])) for index, name in names.items()]


@pytest.mark.parametrize("text", NOT_CALLS)
@given(places=st.lists(st.integers(0, 200)))
def test_what_is_no_call_as_a_whole_is_content_as_it_came(text: str, places: list[int]) -> None:
    assert parts_of(AUTO, cut(text, places)) == [] or text_of(parts_of(AUTO, cut(text, places))) == text
    assert calls_of(parts_of(AUTO, cut(text, places))) == []


@given(places=st.lists(st.integers(0, 200)))
def test_a_whole_call_is_a_call(places: list[int]) -> None:
    parts = parts_of(AUTO, cut(f"\n{WEATHER}\n", places))
    assert (text_of(parts), calls_of(parts)) == ("", [("get_weather", {"city": 'पुणे "{\\'})])


@pytest.mark.parametrize("use", [PARALLEL, FORCED])
@given(places=st.lists(st.integers(0, 200)))
def test_several_calls_are_several_where_that_is_allowed(use: ToolUse, places: list[int]) -> None:
    parts = parts_of(use, cut(f"[{WEATHER}, {TIME}]", places))
    assert (text_of(parts), calls_of(parts)) == ("", [("get_weather", {"city": 'पुणे "{\\'}), ("get_time", {})])


@given(places=st.lists(st.integers(0, 200)))
def test_calls_in_tags_are_calls_too(places: list[int]) -> None:
    wrapped = f"<tool_call>\n{WEATHER}\n</tool_call>"
    assert calls_of(parts_of(AUTO, cut(wrapped, places))) == [("get_weather", {"city": 'पुणे "{\\'})]
    two = f"{wrapped}\n<tool_call>\n{TIME}\n</tool_call>"
    assert [name for name, _ in calls_of(parts_of(PARALLEL, cut(two, places)))] == ["get_weather", "get_time"]
    assert text_of(parts_of(AUTO, cut(f"{wrapped} There.", places))) == f"{wrapped} There."


def test_text_is_held_back_only_while_it_may_be_a_call() -> None:
    parts = AnswerParts(AUTO)
    assert parts.push('{"name": "get_w') == []
    assert parts.push("ind") == [Content('{"name": "get_wind')]
    assert parts.push('"}') == [Content('"}')]
    assert AnswerParts(AUTO).push("It") == [Content("It")]
    assert AnswerParts(AUTO).push("[") == [Content("[")]


def test_arguments_of_a_call_that_must_come_are_given_on_as_they_come() -> None:
    parts = AnswerParts(FORCED)
    (begun,) = parts.push('[{"name": "get_weather", "arguments": {')[:1]
    assert isinstance(begun, CallPiece)
    assert (begun.index, begun.name, begun.arguments) == (0, "get_weather", "")
    assert begun.id is not None
    assert parts.push('"city": "Pu') == [CallPiece(0, arguments='"city": "Pu')]
    assert parts.push('ne"}}') == [CallPiece(0, arguments='ne"}')]
    assert parts.called


def test_every_call_has_an_id_of_its_own() -> None:
    parts = parts_of(PARALLEL, [f"[{WEATHER}, {TIME}]"])
    ids = [part.id for part in parts if isinstance(part, CallPiece) and part.id]
    assert len(set(ids)) == 2
