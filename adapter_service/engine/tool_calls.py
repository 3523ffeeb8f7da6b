"""Calls of tools as text: the form that an answer is held to, and reading it.

One call is `{"name": "…", "arguments": {…}}`; where several at once are allowed, they are a list of at least one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter_service.conversation import Tool
from adapter_service.engine.grammars import Grammar, json_rule, lark_grammar
from adapter_service.errors import InvalidParameterError, ToolCallFormatError


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call as it was read from an answer."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def arguments_json(self) -> str:
        """The arguments as OpenAI's API has them: text."""
        return json.dumps(self.arguments, ensure_ascii=False)


def tool_call_grammar(
    tools: Sequence[Tool], name: str | None = None, *, parallel: bool = False, parameter: str = "tools"
) -> Grammar:
    """A call of one of `tools`, of the one called `name` if that is given; `parallel`, a list of such calls.

    Raises:
        InvalidParameterError: there is no such tool, or its arguments are not an object.
    """
    wanted = [tool for tool in tools if name in {None, tool.name}]
    if not wanted:
        known = ", ".join(tool.name for tool in tools) or "none"
        raise InvalidParameterError(
            f"there is no tool {name!r}; the request's tools: {known}" if name else "no tools are given; list some",
            parameter="tool_choice" if name else parameter,
        )
    start = 'start: "[" call (", " call)* "]"' if parallel else "start: call"
    calls = " | ".join(f"call_{place}" for place in range(len(wanted)))
    rules = [f"call_{place}: {_call_rule(tool, parameter)}" for place, tool in enumerate(wanted)]
    return lark_grammar("\n".join([start, f"call: {calls}", *rules]), parameter=parameter)


def call_or_text_grammar(tools: Sequence[Tool], text: str, *, parameter: str = "tools") -> Grammar:
    """A call of one of `tools`, or exactly `text`; without tools, the text.

    Raises:
        InvalidParameterError: the arguments of one are not an object.
    """
    calls = [f"call_{place}: {_call_rule(tool, parameter)}" for place, tool in enumerate(tools)]
    answers = " | ".join([*(f"call_{place}" for place in range(len(tools))), "none"])
    rules = [f"start: {answers}", f"none: {json.dumps(text, ensure_ascii=False)}", *calls]
    return lark_grammar("\n".join(rules), parameter=parameter)


def parse_tool_calls(text: str) -> list[ReadCall]:
    """The calls that an answer makes, which is one call or a list of them, with blanks around it or not.

    Raises:
        ToolCallFormatError: it is something else, or was cut off.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ToolCallFormatError(
            f"the answer is no JSON, or not to its end ({error}); take it as text, or allow it more tokens"
        ) from error
    calls = found if isinstance(found, list) else [found]
    if not calls:
        raise ToolCallFormatError("the answer is an empty list and should have at least one call; take it as text")
    return [_call(entry) for entry in calls]


def _call_rule(tool: Tool, parameter: str) -> str:
    kind = tool.parameters.get("type", "object")
    if kind != "object":
        raise InvalidParameterError(
            f"the parameters of tool {tool.name!r} are of type {kind!r}; their schema must describe an object",
            parameter=parameter,
        )
    begin = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
    return f"{json.dumps(begin)} {json_rule({**tool.parameters, 'type': 'object'})} {json.dumps('}')}"


def _call(entry: Any) -> ReadCall:
    if not isinstance(entry, dict) or entry.keys() != {"name", "arguments"}:
        raise ToolCallFormatError(
            f"a call should be an object with name and arguments, and is {_shown(entry)}; take the answer as text"
        )
    if not isinstance(entry["name"], str) or not isinstance(entry["arguments"], dict):
        raise ToolCallFormatError(
            f"a call should have a text as its name and an object as its arguments, and is {_shown(entry)}; "
            "take the answer as text"
        )
    return ReadCall(entry["name"], entry["arguments"])


def _shown(entry: Any) -> str:
    text = json.dumps(entry, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}…"
