"""Reads a node's command schemas as a hub sends them, and finds every fault in them at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from adapter_service.canonical import canonical_json
from adapter_service.commands.json_values import json_faults, same, shown, some_of
from adapter_service.commands.object_reader import Bounds, ObjectReader, repeated
from adapter_service.commands.parameter_types import TYPE_NAMES, ParameterType
from adapter_service.commands.schema import Antipattern, Command, Example, Parameter
from adapter_service.errors import InvalidSchemaError, SchemaFault
from adapter_service.settings import CommandSettings
from adapter_service.suggestions import did_you_mean

OPTIONS_SOURCES = ("devices", "devices:<domain>", "rooms", "news_categories")
_OPTIONS_SOURCE = re.compile(r"devices|rooms|news_categories|devices:[a-z0-9_.-]+")
# What clients of the chat endpoints may call a function.
_NAME = re.compile(r"[A-Za-z0-9_-]*")
_LONGEST_NAME = 64
_PARAMETERS, _VALUES, _TEXTS = Bounds(64), Bounds(256), Bounds(64)
_MOST_NO_JSON = 100


def read_commands(given: Any, settings: CommandSettings, *, field: str = "command_schema") -> tuple[Command, ...]:
    """The commands of `given`, which is what stood in `field` of a request.

    Raises:
        InvalidSchemaError: with every fault, each with its path from `field` on; where it is too large or no JSON,
            with that alone. Of a list that is too long the first entries are looked at.
    """
    faults = list(islice(json_faults(given, field), _MOST_NO_JSON))
    if not faults and (size := len(canonical_json(given).encode())) > (most := settings.max_schema_bytes):
        message = f"it has {size} bytes as JSON; at most {most} are allowed: post fewer commands"
        faults = [SchemaFault(field, "too_large", message)]
    if faults:
        raise InvalidSchemaError(faults)
    whole, reader = ObjectReader({field: given}, "", faults), _CommandReader(settings)
    commands = whole.objects(field, reader.read, Bounds(settings.max_commands, least=1))
    _refuse_repeated(whole, field, "command_name", [(place, command.command_name) for place, command in commands])
    if faults:
        raise InvalidSchemaError(faults)
    return tuple(command for _, command in commands)


class _CommandReader:
    """Reads one command after the other; one with faults is only good for looking for more."""

    def __init__(self, settings: CommandSettings) -> None:
        self._settings = settings

    def read(self, given: ObjectReader) -> Command:
        name, description = _name(given, "command_name"), self._text(given, "description")
        parameters = given.objects("parameters", self._parameter, _PARAMETERS)
        _refuse_repeated(given, "parameters", "name", [(place, parameter.name) for place, parameter in parameters])
        return Command(
            command_name=name,
            description=description,
            examples=self._examples(given, [parameter for _, parameter in parameters]),
            parameters=tuple(parameter for _, parameter in parameters),
            keywords=self._texts(given, "keywords"),
            rules=self._texts(given, "rules"),
            critical_rules=self._texts(given, "critical_rules"),
            antipatterns=tuple(one for _, one in given.objects("antipatterns", self._antipattern, _TEXTS)),
            proposable_actions=self._texts(given, "proposable_actions"),
            listening_signal_types=self._texts(given, "listening_signal_types"),
            allow_direct_answer=given.flag("allow_direct_answer", default=False),
            is_risky=given.flag("is_risky", default=False),
        )

    def _parameter(self, given: ObjectReader) -> Parameter:
        name, kind = _name(given, "name"), _type(given)
        values = given.items("enum_values", _VALUES)
        for place, value in enumerate(values):
            at = f"enum_values[{place}]"
            if kind is not None and not kind.element.holds(value):
                _refuse_value(given, at, value, kind.element)
            if isinstance(value, str) and len(value) > (most := self._settings.max_text_characters):
                given.fault(at, "too_long", f"it has {len(value)} characters; at most {most} are allowed: shorten it")
        parameter = Parameter(
            name=name,
            type=kind or _UNKNOWN,
            description=self._text(given, "description", required=False),
            required=given.flag("required", default=True),
            default_value=given.value("default_value"),
            enum_values=tuple(values),
            options_source=self._text(given, "options_source", required=False) or None,
            refinable=given.flag("refinable", default=False),
        )
        if parameter.options_source and not _OPTIONS_SOURCE.fullmatch(parameter.options_source):
            known = ", ".join(OPTIONS_SOURCES)
            given.fault(
                "options_source", "not_in_enum", f"{shown(parameter.options_source)} is no source; known: {known}"
            )
        if parameter.default_value is not None:
            _check_value(given, "default_value", parameter.default_value, parameter)
        return parameter

    def _examples(self, given: ObjectReader, parameters: Sequence[Parameter]) -> tuple[Example, ...]:
        bounds = Bounds(
            self._settings.max_examples, self._settings.min_examples, "too_many_examples", "too_few_examples"
        )
        declared = {parameter.name: parameter for parameter in parameters}

        def read(one: ObjectReader) -> Example:
            utterance, expected = self._text(one, "voice_command"), one.mapping("expected_parameters", _PARAMETERS)
            _check_expected(one, expected, declared)
            given_values = {name: value for name, value in expected.items() if value is not None}
            return Example(utterance, given_values, one.flag("is_primary", default=False))

        examples = given.objects("examples", read, bounds)
        primary = [str(place) for place, example in examples if example.is_primary]
        if len(primary) > 1:
            message = f"examples {', '.join(primary)} are all primary; leave 'is_primary' in one"
            given.fault("examples", "multiple_primary", message)
        return tuple(example for _, example in examples)

    def _text(self, given: ObjectReader, field: str, *, required: bool = True) -> str:
        return given.text(field, longest=self._settings.max_text_characters, required=required)

    def _texts(self, given: ObjectReader, field: str) -> tuple[str, ...]:
        return given.texts(field, _TEXTS, longest=self._settings.max_text_characters)

    def _antipattern(self, given: ObjectReader) -> Antipattern:
        return Antipattern(_name(given, "command_name"), self._text(given, "description"))


_UNKNOWN = ParameterType("?", "?")


def _name(given: ObjectReader, field: str) -> str:
    name = given.text(field, longest=_LONGEST_NAME)
    if _NAME.fullmatch(name):
        return name
    given.fault(field, "invalid_type", f"{shown(name)} is no name; a name has letters, digits, '_' and '-' alone")
    return ""


def _type(given: ObjectReader) -> ParameterType | None:
    name = given.text("type", longest=_LONGEST_NAME)
    if not name:
        return None
    if (kind := ParameterType.named(name)) is not None:
        return kind
    meant = did_you_mean(name, TYPE_NAMES)
    given.fault("type", "invalid_type", f"{shown(name)} is no type{meant} allowed: {', '.join(TYPE_NAMES)}")
    return None


def _check_expected(given: ObjectReader, expected: Mapping[str, Any], declared: Mapping[str, Parameter]) -> None:
    for name, value in expected.items():
        at = f"expected_parameters.{name[:_LONGEST_NAME]}"
        if (parameter := declared.get(name)) is not None:
            if value is not None or parameter.required:  # null is how nodes say that nothing was said of it
                _check_value(given, at, value, parameter)
        elif "" not in declared:  # else it may be the one whose name is at fault
            meant, known = did_you_mean(name, declared), some_of(list(declared))
            message = f"the command has no parameter {shown(name)}{meant} declared: {known}"
            given.fault(at, "undeclared_parameter", message)


def _check_value(given: ObjectReader, at: str, value: Any, parameter: Parameter) -> None:
    """That it is of the parameter's type and, where the parameter says which values there are, one of them."""
    kind, allowed = parameter.type, parameter.enum_values
    if kind is _UNKNOWN:
        return
    if not kind.holds(value):
        _refuse_value(given, at, value, kind)
        return
    if not allowed:
        return
    others = [one for one in (value if kind.is_array else [value]) if not any(same(one, known) for known in allowed)]
    if others:
        message = f"{shown(others[0])} is none of the parameter's values; allowed: {some_of(list(map(shown, allowed)))}"
        given.fault(at, "not_in_enum", message)


def _refuse_value(given: ObjectReader, at: str, value: Any, kind: ParameterType) -> None:
    given.fault(at, "invalid_type", f"{shown(value)} is no {kind.name}; send {kind.meant}")


def _refuse_repeated(given: ObjectReader, field: str, name: str, names: Sequence[tuple[int, str]]) -> None:
    for place, first in repeated(names):
        message = f"it is the name of {field}[{first}] too; rename one"
        given.fault(f"{field}[{place}].{name}", "duplicate_name", message)
