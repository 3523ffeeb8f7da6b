"""A whole conversation, tools included, to the token ids that stand before its answer.

A chat template that takes `tools` gets them. For every other base the tools are a block of text in front, calls
are the JSON that they were, and results are a user's turn. A template that refuses roles (no system role, turns
that must alternate) gets the conversation folded: what the system says goes before the first user turn, turns
of one side that follow each other become one. A base without a template gets all texts with line breaks
between, which for a single user turn is what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from jinja2 import TemplateError

from adapter_service.conversation import Tool, ToolCall, Turn
from adapter_service.errors import InvalidParameterError
from adapter_service.rendering import Renderer

_Message = dict[str, Any]
_CALLABLE = "You can call these functions:\n"
_HOW = '\nTo call one, answer with nothing but JSON: {"name": the function, "arguments": an object}.'
_SEVERAL = " To call several, answer with a list of such objects."
_RESULT = "Result of {name}: {content}"


def tools_block(tools: Sequence[Tool], *, parallel: bool = False) -> str:
    """The tools as text, one line each, and how to call them; `parallel` allows several calls in one answer."""
    lines = "\n".join(
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for tool in tools
    )
    return f"{_CALLABLE}{lines}{_HOW}{_SEVERAL if parallel else ''}"


def template_id(renderer: Renderer, tools: Sequence[Tool]) -> str:
    """As `Renderer.template_id`, which it is where there are no tools; another one when our block's text changes."""
    if not tools or renderer.takes_tools:
        return renderer.template_id
    described = renderer.template_id + _CALLABLE + _HOW + _SEVERAL + _RESULT
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def conversation_ids(
    renderer: Renderer, turns: Sequence[Turn], tools: Sequence[Tool] = (), *, parallel: bool = False
) -> list[int]:
    """What stands before the answer to `turns`.

    Raises:
        InvalidParameterError: nothing is said, a result is of no call, or the template takes no such conversation.
    """
    if not any(turn.content.strip() or turn.calls for turn in turns):
        raise InvalidParameterError("'messages' are all blank; write what shall be answered", parameter="messages")
    names = _names_of_calls(turns)
    plain = [_plain(turn, names) for turn in turns]
    if tools:
        plain = _with_block(plain, tools_block(tools, parallel=parallel))
    if not renderer.is_chat:
        return renderer.text_ids("\n".join(message["content"] for message in plain) + "\n")
    messages, described = plain, None
    if renderer.takes_tools:
        messages = [_native(turn, names) for turn in turns]
        described = [_described(tool) for tool in tools] or None
    try:
        return renderer.template_ids(messages, described)
    except TemplateError as error:
        return _folded_ids(renderer, plain, error)


def _folded_ids(renderer: Renderer, messages: Sequence[_Message], refusal: TemplateError) -> list[int]:
    try:
        return renderer.template_ids(_folded(messages), None)
    except TemplateError:
        raise InvalidParameterError(
            f"the base's chat template refuses these messages: {refusal}; change their roles or their order",
            parameter="messages",
        ) from refusal


def _folded(messages: Sequence[_Message]) -> list[_Message]:
    """Without a system's turn, and with turns that alternate; all that was said is still there, in its order."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if system:
        first = next((place for place, message in enumerate(others) if message["role"] == "user"), 0)
        others.insert(first, {"role": "user", "content": "\n\n".join(system)})
    return [
        {"role": role, "content": "\n\n".join(message["content"] for message in run)}
        for role, run in groupby(others, key=lambda message: message["role"])
    ]


def _with_block(messages: Sequence[_Message], block: str) -> list[_Message]:
    """`messages` with `block` at the end of the first system's turn, or as one."""
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{block}"}, *messages[1:]]
    return [{"role": "system", "content": block}, *messages]


def _names_of_calls(turns: Sequence[Turn]) -> Mapping[str, str]:
    """The function that each call is of; every result has its call before it."""
    names: dict[str, str] = {}
    for place, turn in enumerate(turns):
        names |= {call.id: call.name for call in turn.calls}
        if turn.role == "tool" and turn.call_id not in names:
            raise InvalidParameterError(
                f"'messages[{place}].tool_call_id' is {turn.call_id!r}; the calls before it are "
                f"{', '.join(map(repr, names)) or 'none'}: send the assistant's message with that call first",
                parameter=f"messages[{place}].tool_call_id",
            )
    return names


def _plain(turn: Turn, names: Mapping[str, str]) -> _Message:
    """In roles that every template has."""
    if turn.role == "tool":
        return {"role": "user", "content": _RESULT.format(name=names[turn.call_id or ""], content=turn.content)}
    calls = _text_of(turn.calls) if turn.calls else ""
    return {"role": turn.role, "content": "\n".join(filter(None, (turn.content, calls)))}


def _text_of(calls: Sequence[ToolCall]) -> str:
    """The answer that the calls were."""
    objects = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls]
    return json.dumps(objects[0] if len(objects) == 1 else objects, ensure_ascii=False)


def _native(turn: Turn, names: Mapping[str, str]) -> _Message:
    """As templates of the Hub take it: arguments are objects, results name their function."""
    message: _Message = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in turn.calls
        ]
    if turn.role == "tool":
        message |= {"tool_call_id": turn.call_id, "name": names[turn.call_id or ""]}
    return message


def _described(tool: Tool) -> _Message:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
