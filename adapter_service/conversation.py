"""A conversation as a client sends it: several turns, tools that may be called, calls, and what came of them.

Training's records are `samples.Sample`; this is what is only ever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

TurnRole = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called; `parameters` is the JSON schema of its arguments, an object. Empty takes any."""

    name: str
    parameters: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is the JSON text of an object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said. `calls` are an assistant's; `call_id` names the call that a tool's turn is the result of."""

    role: TurnRole
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
