"""What hubs queue that assemble their datasets themselves: read whole, with what its calls have in common."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapter_service.commands.queued_training import QueuedTraining, read_envelope
from adapter_service.errors import InvalidSchemaError
from adapter_service.settings import CommandSettings

SETTINGS = CommandSettings(min_examples=1)
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
COMMANDS = "request.dataset_ref.data.commands"


def example(text: str, name: str = "remind", **arguments: Any) -> dict[str, Any]:
    return {"voice_command": text, "expected_tool_call": {"name": name, "arguments": arguments}}


def command(*examples: dict[str, Any], name: str = "remind") -> dict[str, Any]:
    return {"command_name": name, "examples": list(examples)}


def queued(*commands: dict[str, Any], **fields: Any) -> QueuedTraining:
    ref = {"format": "inline-json", "data": {"commands": list(commands)}}
    request = {"node_id": "kitchen", "base_model_id": "base", "dataset_ref": ref}
    body = {"job_id": "hub-1", "job_type": "adapter_train", "request": request, **fields}
    return read_envelope(body, SETTINGS, base_names=["base"], now=NOW)


def parameters(*values: Any) -> list[dict[str, Any]]:
    """Of a command whose calls have these for `when`."""
    examples = [example(f"sentence {place}", when=value) for place, value in enumerate(values)]
    found: list[dict[str, Any]] = queued(command(*examples)).training.commands[0]["parameters"]
    return found


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (([], ["tomorrow", "at_7am"]), "array<datetime>"),
        ((["2026-03-05T07:00:00+01:00"], ["tomorrow"], []), "array<datetime>"),
        ((["2026-03-05", "morning"],), "array<datetime>"),
        (([], []), "list"),
        ((["milk"], ["tomorrow"]), "list"),
        (("2026-03-05T07:00:00+01:00", "tomorrow"), "datetime"),
        (("morning", "jazz"), "string"),
        (("2026-03-05", "2026-03-06"), "string"),
        ((1, 2.5), "float"),
        ((True, False), "bool"),
        (({"a": 1},), "dict"),
    ],
)
def test_a_parameter_is_of_the_type_that_all_its_values_have(values: tuple[Any, ...], kind: str) -> None:
    assert parameters(*values) == [{"name": "when", "type": kind, "required": True}]


def test_what_is_null_in_some_examples_is_not_required_and_what_is_null_in_all_is_no_parameter() -> None:
    examples = [example("one", room=None, when="tomorrow"), example("two", room=None, when=None)]
    (found,) = queued(command(*examples)).training.commands
    assert found["parameters"] == [{"name": "when", "type": "datetime", "required": False}]
    assert [one["expected_parameters"] for one in found["examples"]] == [{"when": "tomorrow"}, {"when": None}]


@pytest.mark.parametrize("values", [(1, "two"), (True, 1), ("tomorrow", ["tomorrow"])])
def test_values_of_several_types_are_a_fault(values: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidSchemaError, match="of several types"):
        parameters(*values)


@pytest.mark.parametrize("created_at", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", 253402300799])
def test_what_was_made_later_than_now_lives_from_now_on(created_at: Any) -> None:
    found = queued(command(example("one")), created_at=created_at, ttl_seconds=60)
    assert found.expires_at == NOW + timedelta(seconds=60)


def test_commands_that_contradict_each_other_in_every_example_are_a_fault() -> None:
    both = [command(example("Play", name), name=name) for name in ("music", "film")]
    with pytest.raises(InvalidSchemaError) as found:
        queued(*both)
    assert [(fault.path, fault.code) for fault in found.value.faults] == [(COMMANDS, "too_few_examples")]


def test_a_hubs_own_prompts_may_say_what_its_sentences_leave_open() -> None:
    both = [
        command({**example("Play", name), "formatted_prompt": f"{name}: Play", "formatted_completion": name}, name=name)
        for name in ("music", "film")
    ]
    assert len(queued(*both).training.formatted or ()) == 2
