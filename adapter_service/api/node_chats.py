"""Conversations with a node's adapter: asked as it was trained, and its calls with their dates in ISO 8601."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.api.tool_calls import ToolUse
from adapter_service.commands.dated_tools import said_in_keys, with_dates
from adapter_service.commands.prompting import Context, system_text
from adapter_service.commands.router import Router
from adapter_service.conversation import Tool, Turn
from adapter_service.errors import InvalidParameterError


@dataclass(frozen=True, slots=True)
class NodeRouter:
    """`zone` is where the node is, if it does not say otherwise."""

    router: Router
    zone: ZoneInfo


def as_trained(turns: Sequence[Turn], use: ToolUse, said: str, node: NodeRouter) -> tuple[tuple[Turn, ...], ToolUse]:
    """The conversation with the functions that `said` may mean before it, as in the node's samples.

    What the client's own system says comes first. The use is of the same functions, with dates said in keys, and of one
    call, as was learned; of its arguments the client gets what the sentence bears out.
    """
    now = datetime.now(UTC).astimezone(node.zone)
    tools = node.router.candidates(use.tools, said)
    own = [turn.content for turn in turns if turn.role == "system"]
    text = "\n".join([*own, system_text(tools, Context(now))])
    others = [turn for turn in turns if turn.role != "system"]
    by_name = {tool.name: tool for tool in tools}

    def dated(name: str, arguments: Mapping[str, Any]) -> str:
        borne_out = node.router.grounded(name, arguments, said, Context(now))
        return json.dumps(_dated(by_name.get(name), borne_out, now, node.zone), ensure_ascii=False)

    may_be_called = tools if use.named else node.router.likely(tools, said)
    held = tuple(map(said_in_keys, may_be_called))
    return (Turn("system", text), *others), replace(use, tools=held, parallel=False, arguments=dated)


def _dated(tool: Tool | None, arguments: Mapping[str, Any], now: datetime, zone: ZoneInfo) -> Mapping[str, Any]:
    """A date that is none stays as it was said: the client looks at what it calls, as it does of any model's answer."""
    try:
        return arguments if tool is None else with_dates(tool, arguments, now, zone)
    except InvalidParameterError:
        return arguments
