"""What stands before an answer to a node's sentence: the functions in few words, the moment, and how to answer.

Adapters are trained on these very texts and asked with them. A small base reads few tokens well, and each costs time:
a function is one line, some thirty tokens where its JSON schema has two hundred. What is the same for every sentence
of a node comes first, so that it is read once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapter_service.commands.schema import Command
from adapter_service.commands.tools import tools_of
from adapter_service.conversation import Tool
from adapter_service.samples import Message

_HEAD = "Functions:\n"
_HOW = 'Answer with JSON, {"name": the function, "arguments": an object}, or say that none fits.'
_DATES = "Dates are words such as today, next_monday, at_7_30pm."
_DATE_FORMATS = {"date", "date-time", "time"}
_ABBREVIATED = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "list"}
NONE_FITS = "No function fits."


@dataclass(frozen=True, slots=True)
class Context:
    """Where and when a sentence is said; `now` is aware, in the node's zone."""

    now: datetime
    rooms: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def prompt_of(commands: Sequence[Command], sentence: str, context: Context) -> tuple[Message, Message]:
    """What stands before the answer to `sentence`, where `commands` may be meant."""
    return Message("system", system_text(tools_of(commands), context)), Message("user", sentence)


def system_text(tools: Sequence[Tool], context: Context) -> str:
    """The system's turn, or the text before the sentence where a base knows no system."""
    lines = [_HEAD + "\n".join(map(line_of, tools)), _HOW]
    lines += [_DATES] if any(_has_dates(tool.parameters) for tool in tools) else []
    known = (("Rooms", context.rooms), ("Devices", context.devices))
    lines += [f"{name}: {', '.join(map(_in_line, them))}." for name, them in known if them]
    # Last: it is of this sentence alone, and the last room of a list would be taken for what is said. Without the date,
    # of which each digit is a token: dates are said in words, and arithmetic makes of them what they are.
    lines += [f"Now: {context.now:%A %H:%M}."]
    return "\n".join(lines)


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """The answer that is a call, as answers are held to where their form is constrained."""
    return json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)


def line_of(tool: Tool) -> str:
    """`set_timer(minutes: int, label?: tea|egg) Starts a timer.`; a question mark is behind what may be left out.

    White space is one blank, lest a description's second line be read as a function.
    """
    required = set(tool.parameters.get("required", ()))
    properties: Mapping[str, Mapping[str, Any]] = tool.parameters.get("properties", {})
    arguments = ", ".join(
        f"{_in_line(name)}{'' if name in required else '?'}: {_type_of(schema)}" for name, schema in properties.items()
    )
    return f"{_in_line(tool.name)}({arguments}) {_in_line(tool.description)}".rstrip()


def _in_line(text: str) -> str:
    return " ".join(text.split())


def _has_dates(schema: Mapping[str, Any]) -> bool:
    within = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    within += [schema["items"]] if "items" in schema else []
    return schema.get("format") in _DATE_FORMATS or any(map(_has_dates, within))


def _type_of(schema: Mapping[str, Any]) -> str:
    if values := schema.get("enum"):
        return "|".join(map(_value_text, values))
    if choices := schema.get("anyOf"):
        return "|".join(_type_of(choice) for choice in choices)
    kind = schema.get("type", "any")
    if kind == "array" and (items := schema.get("items")):
        return f"[{_type_of(items)}]"
    if kind == "string" and (form := schema.get("format")):
        return str(form)
    return "|".join(_ABBREVIATED.get(one, one) for one in ([kind] if isinstance(kind, str) else kind))


def _value_text(value: Any) -> str:
    """JSON, without quotes where a text can be told from its neighbours without them."""
    if not isinstance(value, str):
        return json.dumps(value)
    if value and "|" not in value and not any(map(str.isspace, value)):
        return value
    return json.dumps(value, ensure_ascii=len(value.splitlines()) > 1)
