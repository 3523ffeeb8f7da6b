"""What a model's answer to a sentence routes it to."""

from __future__ import annotations

import json

from adapter_service.commands.prompting import NONE_FITS
from adapter_service.commands.scoring import Routed
from adapter_service.engine.tool_calls import parse_tool_calls
from adapter_service.errors import ToolCallFormatError


def routed(text: str) -> Routed:
    """What an answer says: one call, or that no function fits; in our form, or in that of hubs' own completions."""
    if text.strip() == NONE_FITS:
        return Routed()
    try:
        calls = parse_tool_calls(_own_form(text))
    except ToolCallFormatError:
        return Routed(is_valid=False)
    return Routed(calls[0].name, calls[0].arguments) if len(calls) == 1 else Routed(is_valid=False)


def _own_form(text: str) -> str:
    """Of `{"message": …, "tool_calls": [call], "error": null}` the calls; anything else as it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict) or not {"tool_calls", "tool_call"} & found.keys():
        return text
    return json.dumps(found.get("tool_calls") or found.get("tool_call"))
