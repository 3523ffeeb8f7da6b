"""Commands to make sentences and prompts of, in few words."""

from __future__ import annotations

from typing import Any

from adapter_service.commands.schema import Command
from adapter_service.commands.validation import read_commands
from adapter_service.settings import CommandSettings

SETTINGS = CommandSettings(min_examples=1, max_schema_bytes=2**22)


def command(name: str, *sentences: str | tuple[str, dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A command as a node posts it; a sentence alone has no arguments."""
    given = [(one, dict[str, Any]()) if isinstance(one, str) else one for one in sentences]
    examples = [{"voice_command": text, "expected_parameters": expected} for text, expected in given]
    return {"command_name": name, "description": f"Does {name}", "examples": examples} | fields


def read(*given: dict[str, Any]) -> tuple[Command, ...]:
    return read_commands(list(given), SETTINGS)


def numbered(name: str, count: int, **fields: Any) -> dict[str, Any]:
    return command(name, *(f"{name} number {number}" for number in range(count)), **fields)
