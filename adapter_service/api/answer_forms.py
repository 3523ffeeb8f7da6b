"""The form that an answer must have, as a grammar for the engine; compiled here, on the request's own thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapter_service.api.schemas.chat import ChatBody
from adapter_service.api.tool_calls import ToolUse
from adapter_service.engine.engine import Engine

if TYPE_CHECKING:
    from adapter_service.engine.constraints import Constraint


def constraint_of(body: ChatBody, use: ToolUse, engine: Engine) -> Constraint | None:
    return None
