"""What a hub asks for one of its nodes: the commands, the base and how to train; read with every fault at once.

It is what `POST /api/v0/adapters/train` takes, under the names of the hub's specification and of its code alike.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from adapter_service.canonical import canonical_json
from adapter_service.commands import nodes
from adapter_service.commands.dataset_hash import check_dataset_hash, dataset_hash
from adapter_service.commands.object_reader import ObjectReader, kind_of, opened, read_trace_id
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import NOTHING_TAUGHT, teaches_anything
from adapter_service.commands.validation import read_commands
from adapter_service.errors import InvalidParameterError, InvalidSchemaError, SchemaFault
from adapter_service.settings import CommandSettings
from adapter_service.settings.command_sections import time_zones

Priority = Literal["normal", "high"]
_PRIORITIES: tuple[Priority, ...] = ("normal", "high")
_LISTS = ("command_schema", "available_commands")
_LONGEST = 200
_HASH = re.compile(r"[0-9a-fA-F]{64}")
# Of the recipe: least, most, whether it is a whole number, and which of our settings it stands for.
_PARAMS: Mapping[str, tuple[float, float, bool, str]] = {
    "rank": (1, 1024, True, "rank"),
    "epochs": (1, 1000, True, "num_epochs"),
    "batch_size": (1, 4096, True, "batch_size"),
    "max_seq_len": (64, 131_072, True, "max_seq_len"),
    "learning_rate": (1e-9, 1.0, False, "learning_rate"),
}


@dataclass(frozen=True, slots=True)
class CommandTraining:
    """One node's commands to be learned, checked; `commands` are as they were sent, `params` in the hub's names.

    `external_id` is what the hub calls the job, `expires_at` (ISO 8601) when nobody wants it any more. With
    `formatted` a hub's own prompts and completions are learned, in place of what is made of the commands.

    As a job keeps it: what it was asked is enough to do it again after a restart.
    """

    node_id: str
    base_model_id: str
    commands: list[Any]
    dataset_hash: str
    time_zone: str
    params: Mapping[str, float | int] = field(default_factory=dict)
    priority: Priority = "normal"
    external_id: str | None = None
    idempotency_key: str | None = None
    expires_at: str | None = None
    callback: Mapping[str, str] | None = None
    formatted: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        return cls(**kept)

    @property
    def adapter(self) -> str:
        return nodes.adapter_of(self.node_id)

    def recipe(self, settings: CommandSettings) -> CommandSettings:
        """The settings with what `params` say in their place; a longer sample raises the budget with it."""
        given = {key: self.params[name] for name, (*_, key) in _PARAMS.items() if name in self.params}
        budget = max(settings.token_budget, int(given.get("max_seq_len", 0)))
        return settings.model_copy(update=given | {"token_budget": budget})

    def content_key(self, settings: CommandSettings) -> str:
        """What the adapter follows from, as 64 hex digits: node, base, commands and the whole recipe."""
        recipe = self.recipe(settings)
        own = ("holdout_fraction", "warmup_steps", "variations", "embedding_noise")
        names = [*(key for *_, key in _PARAMS.values()), *own]
        made_of = {
            "node": self.node_id,
            # And what that is: a hub's name may come to mean another one.
            "base": [self.base_model_id, settings.base_models.get(self.base_model_id, self.base_model_id)],
            "dataset": self.dataset_hash,
            "parameters": {name: getattr(recipe, name) for name in names} | {"time_zone": self.time_zone},
        }
        return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()

    def differs_in_base_alone(self, other: CommandTraining) -> bool:
        mine, theirs = ((one.dataset_hash, dict(one.params), one.time_zone) for one in (self, other))
        return self.base_model_id != other.base_model_id and mine == theirs


def read_training(
    body: Any, settings: CommandSettings, *, base_names: Collection[str], node_id: str | None = None
) -> tuple[CommandTraining, str | None]:
    """The training that `body` asks for, and its `trace_id` where there is one.

    Args:
        base_names: what the resident base is called.
        node_id: whose key the caller has; it need not say itself then.

    Raises:
        InvalidSchemaError: with every fault there is.
    """
    given = opened(body)
    faults = given.faults
    node = _node(given, node_id)
    base = read_base(given, "base_model_id", settings, base_names, required=True)
    commands, _ = _commands(given, settings, faults)
    found_hash = _hash(given, commands)
    params = read_params(given, settings, base_names, faults)
    time_zone = read_time_zone(given) or settings.time_zone
    priority = read_priority(given)
    trace_id = read_trace_id(given)
    given.end()
    if faults:
        raise InvalidSchemaError(faults)
    training = CommandTraining(
        node_id=node,
        base_model_id=base,
        commands=commands,
        dataset_hash=found_hash,
        time_zone=time_zone,
        params=params,
        priority=priority,
    )
    return training, trace_id


def read_priority(given: ObjectReader) -> Priority:
    """The field `priority`, normal where nothing is said."""
    priority = given.text("priority", longest=_LONGEST, required=False) or "normal"
    if priority not in _PRIORITIES:
        given.fault("priority", "not_in_enum", f"it is {priority!r}; allowed: {', '.join(_PRIORITIES)}")
    return "high" if priority == "high" else "normal"


def read_time_zone(given: ObjectReader) -> str | None:
    """The field `time_zone`, an IANA name; None where it names none."""
    zone = given.text("time_zone", longest=_LONGEST, required=False) or None
    if zone is not None and zone not in time_zones():
        given.fault("time_zone", "not_in_enum", f"there is no time zone {zone!r}; send a name such as Europe/Berlin")
    return zone


def _node(given: ObjectReader, known: str | None) -> str:
    node = given.text("node_id", longest=_LONGEST, required=known is None) or (known or "")
    if node and (fault := nodes.fault_of(node)) is not None:
        given.fault("node_id", "invalid_type", fault)
    return node


def read_base(
    given: ObjectReader, name: str, settings: CommandSettings, base_names: Collection[str], *, required: bool
) -> str:
    """The field `name`: a hub's name for a base, which has to be the resident one."""
    base = given.text(name, longest=1000, required=required)
    if base and settings.base_models.get(base, base) not in base_names:
        known = [*(one for one, ours in settings.base_models.items() if ours in base_names), *base_names]
        message = f"{base[:80]!r} is no base that this service holds; known: {', '.join(dict.fromkeys(known))}"
        given.fault(name, "unknown_base_model", f"{message}: name one, or map it in commands.base_models")
    return base


def _commands(
    given: ObjectReader, settings: CommandSettings, faults: list[SchemaFault]
) -> tuple[list[Any], tuple[Command, ...]]:
    """As they were sent, and as they were read."""
    sent = {name: value for name in _LISTS if (value := given.value(name)) is not None}
    if len(sent) != 1:
        said = "it is missing" if not sent else f"'{_LISTS[1]}' says the same"
        given.fault(_LISTS[0], "unknown_field" if sent else "missing_field", f"{said}; send one list of commands")
        return [], ()
    ((name, value),) = sent.items()
    try:
        commands = read_commands(value, settings, field=name)
    except InvalidSchemaError as error:
        faults += error.faults
        return [], ()
    if not teaches_anything(commands):
        given.fault(name, "too_few_examples", NOTHING_TAUGHT)
    return value, commands


def _hash(given: ObjectReader, commands: list[Any]) -> str:
    """Ours; one that was sent has to be of the same commands."""
    sent = given.text("dataset_hash", longest=_LONGEST, required=False)
    if not commands:  # at fault themselves, or missing
        return ""
    if sent:
        if not _HASH.fullmatch(sent):
            given.fault("dataset_hash", "invalid_type", "it is no SHA-256; send 64 hex digits, or leave it out")
        else:
            try:
                check_dataset_hash(sent, commands)
            except InvalidParameterError as error:
                given.fault("dataset_hash", "hash_mismatch", str(error))
    return dataset_hash(commands)


def read_params(
    given: ObjectReader, settings: CommandSettings, base_names: Collection[str], faults: list[SchemaFault]
) -> dict[str, float | int]:
    """The field `params`: of the recipe what the hub wants otherwise."""
    value = given.value("params")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        given.fault("params", "invalid_type", f"it is {kind_of(value)}; send an object, or leave it out")
        return {}
    params, found = ObjectReader(value, "params", faults), {}
    for name, (least, most, whole, _) in _PARAMS.items():
        number = params.number(name, least=least, most=most, whole=whole)
        if number is not None:
            found[name] = number
    read_base(params, "hf_base_model_id", settings, base_names, required=False)
    params.end()
    return found
