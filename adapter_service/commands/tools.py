"""A command as a function that a model may call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapter_service.commands.parameter_types import ParameterType
from adapter_service.commands.schema import Command, Parameter
from adapter_service.conversation import Tool

_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "str": {"type": "string"},
    "string": {"type": "string"},
    "int": {"type": "integer"},
    "integer": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "boolean": {"type": "boolean"},
    "any": {},
    "dict": {"type": "object"},
    # A date key may stand there, which is no date yet; the format says what it becomes.
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "timedelta": {"anyOf": [{"type": "number"}, {"type": "string", "format": "duration"}]},
}


def tools_of(commands: Iterable[Command]) -> tuple[Tool, ...]:
    return tuple(map(tool_of, commands))


def tool_of(command: Command) -> Tool:
    """With the JSON schema of its arguments; what must never be left out of a prompt is in its description."""
    parameters = command.parameters
    schema = {
        "type": "object",
        "properties": {parameter.name: _schema_of(parameter) for parameter in parameters},
        "required": [parameter.name for parameter in parameters if parameter.required],
        "additionalProperties": False,
    }
    return Tool(command.command_name, schema, _sentences([command.description, *command.critical_rules]))


def _schema_of(parameter: Parameter) -> dict[str, Any]:
    schema = _of_type(parameter.type, parameter.enum_values)
    if parameter.description:
        schema["description"] = parameter.description
    if parameter.default_value is not None:
        schema["default"] = parameter.default_value
    return schema


def _of_type(kind: ParameterType, values: Sequence[Any]) -> dict[str, Any]:
    one = {"enum": list(values)} if values else dict(_SCHEMAS[kind.scalar])
    return {"type": "array", "items": one} if kind.is_array else one


def _sentences(texts: Sequence[str]) -> str:
    """One after the other, each with its end."""
    return " ".join(
        text if text.endswith((".", "!", "?", "।", "。")) else f"{text}." for text in map(str.strip, texts) if text
    )
