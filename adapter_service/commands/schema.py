"""A node's commands, as they are once they have been checked.

The names are those of the command SDK that nodes are written with. Absent values have become their defaults, so that
nothing here has to be asked twice; what a hub sends is read in `validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_service.commands.parameter_types import ParameterType


@dataclass(frozen=True, slots=True)
class Parameter:
    """`enum_values` is empty where anything of the type will do; `options_source` names a list that the hub keeps."""

    name: str
    type: ParameterType
    description: str = ""
    required: bool = True
    default_value: Any = None
    enum_values: tuple[Any, ...] = ()
    options_source: str | None = None
    refinable: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """What somebody may say, and the arguments that the command is to be called with then."""

    voice_command: str
    expected_parameters: Mapping[str, Any]
    is_primary: bool = False


@dataclass(frozen=True, slots=True)
class Antipattern:
    """What sounds like this command and is another's, which may be one of another node."""

    command_name: str
    description: str


@dataclass(frozen=True, slots=True)
class Command:
    """`rules` hold for those who write prompts; `critical_rules` are never left out of one."""

    command_name: str
    description: str
    examples: tuple[Example, ...]
    parameters: tuple[Parameter, ...] = ()
    keywords: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    critical_rules: tuple[str, ...] = ()
    antipatterns: tuple[Antipattern, ...] = ()
    proposable_actions: tuple[str, ...] = ()
    listening_signal_types: tuple[str, ...] = ()
    allow_direct_answer: bool = False
    is_risky: bool = False

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)
