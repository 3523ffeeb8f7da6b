"""What hubs queue that assemble their datasets themselves: an envelope around sentences and the calls they are to make.

Without schemas of the commands these are inferred from the calls. A hub that has its own prompts sends them along
(`formatted_prompt` and its like, with every example or with none); they are learned as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from adapter_service.commands import nodes
from adapter_service.commands.dataset_hash import check_dataset_hash, dataset_hash
from adapter_service.commands.date_keys import is_date_key
from adapter_service.commands.object_reader import Bounds, ObjectReader, kind_of, note, opened, read_trace_id
from adapter_service.commands.parameter_types import SCALARS
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import NOTHING_TAUGHT, teaches_anything
from adapter_service.commands.training_request import (
    CommandTraining,
    read_base,
    read_params,
    read_priority,
    read_time_zone,
)
from adapter_service.commands.validation import read_commands
from adapter_service.errors import ExpiredRequestError, InvalidParameterError, InvalidSchemaError, SchemaFault
from adapter_service.settings import CommandSettings

JOB_TYPE, VERSION = "adapter_train", "v1"
_COMMANDS = "request.dataset_ref.data.commands"
_FORMATTED = ("formatted_prompt", "formatted_completion", "formatted_system_prompt")
_LONGEST, _LONGEST_PROMPT, _LONGEST_URL = 200, 20_000, 2000
_DAY_SECONDS = 86_400
_MOST_TTL_SECONDS = 30 * _DAY_SECONDS
_ARGUMENTS = Bounds(64)
_KINDS = {str: "string", list: "list", bool: "bool", int: "int", float: "float"}


@dataclass(frozen=True, slots=True)
class QueuedTraining:
    """`callback` is as it was sent: a url, perhaps with a token."""

    training: CommandTraining
    job_id: str
    idempotency_key: str
    trace_id: str | None
    callback: Mapping[str, str] | None
    expires_at: datetime


def read_envelope(
    body: Any, settings: CommandSettings, *, base_names: Collection[str], now: datetime
) -> QueuedTraining:
    """The training that an envelope asks for.

    Raises:
        InvalidSchemaError: with every fault there is.
        ExpiredRequestError: it was made longer ago than it was to live.
    """
    envelope = opened(body)
    faults = envelope.faults
    job_id = envelope.text("job_id", longest=_LONGEST)
    key = envelope.text("idempotency_key", longest=_LONGEST, required=False) or job_id
    _one_of(envelope, "job_type", JOB_TYPE)
    _one_of(envelope, "job_type_version", VERSION, required=False)
    priority = read_priority(envelope)
    trace_id = read_trace_id(envelope)
    created_at = min(_time(envelope, "created_at", now), now)
    ttl = envelope.number("ttl_seconds", least=1, most=_MOST_TTL_SECONDS, whole=False) or _DAY_SECONDS
    if (metadata := envelope.value("metadata")) is not None and not isinstance(metadata, Mapping):
        envelope.fault("metadata", "invalid_type", f"it is {kind_of(metadata)}; send an object, or leave it out")
    callback = _callback(envelope, faults)
    found = _request(envelope, settings, base_names, faults)
    envelope.end()
    if faults or found is None:
        raise InvalidSchemaError(faults)
    expires_at = created_at + timedelta(seconds=ttl)
    if expires_at <= now:
        raise ExpiredRequestError(
            f"the request was made at {created_at.isoformat()} and was to live for {ttl:g} s; send it anew"
        )
    training = CommandTraining(
        **found, priority=priority, external_id=job_id, idempotency_key=key, expires_at=expires_at.isoformat()
    )
    return QueuedTraining(training, job_id, key, trace_id, callback, expires_at)


def _request(
    envelope: ObjectReader, settings: CommandSettings, base_names: Collection[str], faults: list[SchemaFault]
) -> dict[str, Any] | None:
    value = envelope.value("request")
    if not isinstance(value, Mapping):
        code, found = ("missing_field", "missing") if value is None else ("invalid_type", kind_of(value))
        envelope.fault("request", "missing_field" if code == "missing_field" else "invalid_type", f"it is {found}")
        return None
    given = ObjectReader(value, "request", faults)
    node = given.text("node_id", longest=_LONGEST)
    if node and (fault := nodes.fault_of(node)) is not None:
        given.fault("node_id", "invalid_type", fault)
    base = read_base(given, "base_model_id", settings, base_names, required=True)
    params = read_params(given, settings, base_names, faults)
    zone = read_time_zone(given) or settings.time_zone
    sent_hash = given.text("dataset_hash", longest=_LONGEST, required=False)
    sent = _sent_commands(given.value("dataset_ref"), given, faults)
    given.end()
    if sent is None:
        return None
    before = len(faults)
    commands, formatted = _converted(sent, settings, faults)
    if len(faults) > before:
        return None
    if sent_hash:
        try:
            check_dataset_hash(sent_hash, sent)
        except InvalidParameterError as error:
            given.fault("dataset_hash", "hash_mismatch", str(error))
    return {
        "node_id": node,
        "base_model_id": base,
        "commands": commands,
        "dataset_hash": dataset_hash(sent),
        "time_zone": zone,
        "params": params,
        "formatted": formatted,
    }


def _sent_commands(value: Any, request: ObjectReader, faults: list[SchemaFault]) -> list[Any] | None:
    """The list in `dataset_ref{format, data{commands}}`."""
    if not isinstance(value, Mapping):
        request.fault("dataset_ref", "missing_field", 'send {"format": "inline-json", "data": {"commands": [...]}}')
        return None
    ref = ObjectReader(value, "request.dataset_ref", faults)
    _one_of(ref, "format", "inline-json")
    data = ref.value("data")
    ref.end()
    commands = data.get("commands") if isinstance(data, Mapping) else None
    if not isinstance(commands, list) or not commands:
        ref.fault("data.commands", "missing_field", "it is no list of commands; send at least one")
        return None
    return commands


def _converted(
    sent: list[Any], settings: CommandSettings, faults: list[SchemaFault]
) -> tuple[list[Any], list[dict[str, Any]] | None]:
    """Commands as a node would post them, and the hub's own prompts, where it has them."""
    whole = ObjectReader({"commands": sent}, "request.dataset_ref.data", faults)
    read = whole.objects("commands", _command, Bounds(settings.max_commands, least=1))
    if faults:
        return [], None
    commands = [command for _, (command, _) in read]
    for command, (place, _) in zip(commands, read, strict=True):
        declared = list(_parameters(command["examples"], f"{_COMMANDS}[{place}]", faults))
        command["parameters"] = declared
        for example in command["examples"]:
            example["expected_parameters"] = _without_others(example["expected_parameters"], declared)
    if faults:
        return [], None
    learned: tuple[Command, ...] = ()
    try:
        learned = read_commands(commands, settings, field=_COMMANDS)
    except InvalidSchemaError as error:
        faults += [SchemaFault(_as_sent(fault.path), fault.code, fault.message) for fault in error.faults]
    formatted = [example for _, (_, examples) in read for example in examples]
    with_prompts = [example for example in formatted if example["prompt"]]
    if with_prompts and len(with_prompts) < len(formatted):
        message = f"{len(with_prompts)} of {len(formatted)} examples have a formatted_prompt; send it with all, or none"
        faults.append(SchemaFault(_COMMANDS, "missing_field", message))
    if learned and not with_prompts and not teaches_anything(learned):
        faults.append(SchemaFault(_COMMANDS, "too_few_examples", NOTHING_TAUGHT))
    return commands, with_prompts or None


def _as_sent(path: str) -> str:
    return path.replace(".expected_parameters", ".expected_tool_call.arguments")


def _command(given: ObjectReader) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    name = given.text("command_name", longest=_LONGEST)
    examples = [example for _, example in given.objects("examples", _example, Bounds(10_000, least=1))]
    for one in examples:
        if name and one["name"] and one["name"] != name:
            given.fault("examples", "not_in_enum", f"a call of {one['name']!r} is among the examples of {name!r}")
    described = name.replace("_", " ") or "?"
    posted = [{"voice_command": one["sentence"], "expected_parameters": one["arguments"]} for one in examples]
    return {"command_name": name, "description": described, "examples": posted}, examples


def _example(given: ObjectReader) -> dict[str, Any]:
    sentence = given.text("voice_command", longest=_LONGEST_PROMPT)
    call = given.value("expected_tool_call")
    name, arguments = "", {}
    if isinstance(call, Mapping):
        found = ObjectReader(call, given.at("expected_tool_call"), given.faults)
        name, arguments = found.text("name", longest=_LONGEST), dict(found.mapping("arguments", _ARGUMENTS))
        found.end()
    else:
        given.fault("expected_tool_call", "missing_field", 'send {"name": ..., "arguments": {...}}')
    texts = [given.text(field, longest=_LONGEST_PROMPT, required=False) for field in _FORMATTED]
    prompt, completion, system = texts
    if bool(prompt) != bool(completion):
        given.fault("formatted_prompt", "missing_field", "formatted_prompt and formatted_completion go together")
    return {
        "sentence": sentence, "name": name, "arguments": arguments,
        "prompt": prompt, "completion": completion, "system": system,
    }  # fmt: skip


def _parameters(
    examples: Sequence[Mapping[str, Any]], where: str, faults: list[SchemaFault]
) -> Iterable[dict[str, Any]]:
    """What the calls of a command have in common: required is what all of them have; null in all is nothing."""
    calls = [example["expected_parameters"] for example in examples]
    for name in dict.fromkeys(name for call in calls for name in call):
        values = [call[name] for call in calls if call.get(name) is not None]
        if not values:
            continue
        if (kind := _type_of(values)) is None:
            message = f"{name!r} is of several types among the examples; send one type of value"
            note(faults, SchemaFault(f"{where}.examples", "invalid_type", message))
            continue
        yield {"name": name, "type": kind, "required": len(values) == len(calls)}


def _without_others(call: Mapping[str, Any], declared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`call` without what is null in every example."""
    names = {parameter["name"] for parameter in declared}
    return {name: value for name, value in call.items() if value is not None or name in names}


def _type_of(values: Sequence[Any]) -> str | None:
    """Of one parameter's values; None where they are of several types."""
    kinds = {_KINDS.get(type(value), "dict") for value in values}
    if kinds == {"int", "float"}:
        return "float"
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    if kind == "string":
        return "datetime" if _are_dates(values) else kind
    if kind == "list":
        return "array<datetime>" if _are_dates([one for value in values for one in value]) else kind
    return kind


def _are_dates(values: Sequence[Any]) -> bool:
    """Date keys, perhaps with ISO 8601 beside them; of that alone nobody knows what it is meant for."""
    is_one = SCALARS["datetime"]
    return all(map(is_one, values)) and any(is_date_key(value) for value in values)


def _callback(envelope: ObjectReader, faults: list[SchemaFault]) -> dict[str, str] | None:
    value = envelope.value("callback")
    if value is None:
        return None
    if not isinstance(value, Mapping):
        envelope.fault("callback", "invalid_type", f"it is {kind_of(value)}; send an object with a url")
        return None
    given = ObjectReader(value, "callback", faults)
    found = {
        "url": given.text("url", longest=_LONGEST_URL),
        "auth_type": given.text("auth_type", longest=_LONGEST, required=False),
        "token": given.text("token", longest=_LONGEST_URL, required=False),
    }
    given.end()
    return {name: text for name, text in found.items() if text}


def _one_of(given: ObjectReader, name: str, wanted: str, *, required: bool = True) -> None:
    found = given.text(name, longest=_LONGEST, required=required)
    if found and found != wanted:
        given.fault(name, "not_in_enum", f"it is {found!r}; {wanted!r} is all that is taken")


def _time(given: ObjectReader, name: str, default: datetime) -> datetime:
    """ISO 8601 or seconds since 1970; absent, `default`."""
    value = given.value(name)
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    if value is not None:
        given.fault(name, "invalid_type", f"it is {str(value)[:40]!r}; send ISO 8601 with an offset")
    return default
