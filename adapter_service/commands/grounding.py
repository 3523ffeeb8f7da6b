"""What a sentence bears out of the call that a model made of it.

A small model likes to fill in what nobody said. A text that may be left out and is not in the sentence is taken out
again; a room that is in the sentence, among those that the home has, and was left out is put in. Nothing else is
touched: what a command needs, numbers, choices and dates are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapter_service.commands.schema import Command, Parameter
from adapter_service.commands.words import normalized

_TEXTS = frozenset({"str", "string"})
# Lists of the hub's that a sentence names one of, by `options_source` up to its colon.
_KNOWN = frozenset({"rooms", "devices"})


def grounded(
    command: Command, arguments: Mapping[str, Any], sentence: str, known: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """`arguments` of a call of `command` that was made of `sentence`.

    Args:
        known: the home's own names, by the `options_source` that a parameter may have: rooms, devices.
    """
    said = f" {normalized(sentence)} "
    found = {}
    for name, value in arguments.items():
        parameter = command.parameter(name)
        if parameter is None or not _is_free(parameter) or _is_in(value, said):
            found[name] = value
    for parameter in command.parameters:
        if parameter.name not in found and _is_free(parameter):
            named = _named(parameter, said, known)
            if named is not None:
                found[parameter.name] = named
    return found


def _is_free(parameter: Parameter) -> bool:
    """Whether it may be left out, and holds any text."""
    kind = parameter.type
    return not parameter.required and not parameter.enum_values and not kind.is_array and kind.scalar in _TEXTS


def _is_in(value: Any, said: str) -> bool:
    return not isinstance(value, str) or f" {normalized(value)} " in said


def _named(parameter: Parameter, said: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """The one name that the sentence has, of those that the parameter may be; the longest, where one is in another."""
    source = (parameter.options_source or "").partition(":")[0]
    names = [name for name in known.get(source, ()) if source in _KNOWN and _is_in(name, said)]
    longest = [
        one for one in names if not any(one != other and normalized(one) in normalized(other) for other in names)
    ]
    return longest[0] if len(longest) == 1 else None
