"""What a hub asks for one of its nodes: read whole, hashed, and turned into a recipe."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.commands import nodes
from adapter_service.commands.dataset_hash import dataset_hash
from adapter_service.commands.object_reader import MOST_FAULTS, ObjectReader
from adapter_service.commands.training_request import CommandTraining, read_time_zone, read_training
from adapter_service.errors import InvalidSchemaError, SchemaFault
from adapter_service.settings import CommandSettings
from tests.commands.making import command

SETTINGS = CommandSettings(min_examples=1, base_models={"small": "package:base", "large": "hf:other"})
BASES = ("package:base", "base")
COMMANDS = [command("set_timer", "a timer")]


def body(**fields: Any) -> dict[str, Any]:
    given = {"node_id": "kitchen", "base_model_id": "small", "command_schema": COMMANDS} | fields
    return {name: value for name, value in given.items() if value is not ...}


def training(**fields: Any) -> CommandTraining:
    return read_training(body(**fields), SETTINGS, base_names=BASES)[0]


def faults(**fields: Any) -> set[tuple[str, str]]:
    with pytest.raises(InvalidSchemaError) as found:
        training(**fields)
    return {(fault.path, fault.code) for fault in found.value.faults}


def test_both_names_of_the_list_are_taken_and_not_both_at_once() -> None:
    assert training(command_schema=..., available_commands=COMMANDS).commands == COMMANDS
    assert faults(available_commands=COMMANDS) == {("command_schema", "unknown_field")}
    assert faults(command_schema=...) == {("command_schema", "missing_field")}


@pytest.mark.parametrize("base", ["small", "package:base", "base"])
def test_a_base_may_be_called_as_the_hub_does_or_by_its_own_names(base: str) -> None:
    assert training(base_model_id=base).base_model_id == base


@pytest.mark.parametrize("base", ["large", "hf:other", "nobody's"])
def test_a_base_that_is_not_resident_is_unknown(base: str) -> None:
    assert faults(base_model_id=base) == {("base_model_id", "unknown_base_model")}
    assert faults(params={"hf_base_model_id": base}) == {("params.hf_base_model_id", "unknown_base_model")}


def test_a_hash_of_any_of_the_three_forms_is_verified_and_ours_is_kept() -> None:
    ours = dataset_hash(COMMANDS)
    assert training(dataset_hash=ours.upper()).dataset_hash == ours
    assert faults(dataset_hash="0" * 64) == {("dataset_hash", "hash_mismatch")}
    assert faults(dataset_hash="../../etc/passwd") == {("dataset_hash", "invalid_type")}


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("rank", 0, "out_of_range"),
        ("rank", 1025, "out_of_range"),
        ("rank", 8.5, "invalid_type"),
        ("epochs", True, "invalid_type"),
        ("learning_rate", "fast", "invalid_type"),
        ("learning_rate", 2, "out_of_range"),
        ("lora_r", 8, "unknown_field"),
    ],
)
def test_a_parameter_that_is_none_is_a_fault(name: str, value: Any, code: str) -> None:
    assert faults(params={name: value}) == {(f"params.{name}", code)}


def test_parameters_take_the_place_of_the_settings() -> None:
    given = {"rank": 4, "epochs": 7, "batch_size": 3, "max_seq_len": 9000, "learning_rate": 0.01}
    recipe = training(params=given).recipe(SETTINGS)
    assert (recipe.rank, recipe.num_epochs, recipe.batch_size) == (4, 7, 3)
    assert (recipe.max_seq_len, recipe.token_budget, recipe.learning_rate) == (9000, 9000, 0.01)


def test_the_content_key_is_of_node_base_commands_and_recipe() -> None:
    key = training().content_key(SETTINGS)
    others = [
        training(node_id="hall"),
        training(base_model_id="base"),
        training(command_schema=[command("set_timer", "another timer")]),
        training(params={"rank": 3}),
        training(time_zone="Asia/Tokyo"),
    ]
    assert training(priority="high", trace_id="t").content_key(SETTINGS) == key
    assert training(params={"rank": SETTINGS.rank}).content_key(SETTINGS) == key
    assert len({key, *(other.content_key(SETTINGS) for other in others)}) == 6


def test_only_another_base_is_a_change_of_the_base_alone() -> None:
    assert training().differs_in_base_alone(training(base_model_id="base"))
    assert not training().differs_in_base_alone(training(base_model_id="base", params={"rank": 2}))
    assert not training().differs_in_base_alone(training())


def test_a_job_keeps_all_of_it_as_json() -> None:
    kept = training(params={"rank": 4}, time_zone="Asia/Tokyo", priority="high")
    assert CommandTraining.from_dict(json.loads(json.dumps(kept.to_dict()))) == kept


def test_a_node_with_a_key_of_its_own_need_not_say_who_it_is() -> None:
    found, _ = read_training(body(node_id=...), SETTINGS, base_names=BASES, node_id="hall")
    assert found.node_id == "hall"


@given(st.text(max_size=120))
def test_whatever_a_node_is_called_its_adapter_has_a_name_that_is_allowed(node_id: str) -> None:
    from adapter_service import adapter_names

    if nodes.fault_of(node_id) is None:
        assert adapter_names.fault_of(nodes.adapter_of(node_id)) is None
        assert not set(node_id) & set("/+#\0")


def test_nodes_that_differ_in_case_alone_have_adapters_of_their_own() -> None:
    names = {nodes.adapter_of(node) for node in ("kitchen", "Kitchen", "KITCHEN", "k" * 90, "k" * 91)}
    assert len(names) == 5


def test_a_node_that_is_called_as_another_ones_adapter_has_an_adapter_of_its_own() -> None:
    hashed = nodes.adapter_of("Kitchen")
    assert nodes.adapter_of(hashed.removeprefix("node-")) != hashed


@pytest.mark.parametrize("trace_id", ["a\r\nSet-Cookie: b", " a", "ä", "t" * 129])
def test_a_trace_id_is_one_that_a_header_may_have(trace_id: str) -> None:
    assert faults(trace_id=trace_id) == {("trace_id", "invalid_type")}


def test_commands_that_contradict_each_other_in_every_example_are_refused() -> None:
    both = [command(name, "it plays") for name in ("music", "film")]
    for one in both:
        one["examples"] = [{"voice_command": "Play", "expected_parameters": {}}]
    assert faults(command_schema=both) == {("command_schema", "too_few_examples")}
    assert faults(command_schema=..., available_commands=both) == {("available_commands", "too_few_examples")}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"node_id": "\ud800"}, "node_id"),
        ({"\ud800": 1}, "(the name of a field)"),
        ({"params": {"rank": "\ud800"}}, "params.rank"),
        ({"params": {"\ud800": 1}}, "params (the name of a field)"),
    ],
)
def test_half_a_character_anywhere_is_a_fault_that_can_be_told(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidSchemaError) as found:
        training(**fields)
    assert path in {fault.path for fault in found.value.faults}
    assert [(str(found.value) + fault.path + fault.message).encode() for fault in found.value.faults]


def test_of_more_faults_than_anybody_mends_the_first_are_told() -> None:
    with pytest.raises(InvalidSchemaError) as found:
        training(**{f"field_{number}": number for number in range(10_000)})
    assert len(found.value.faults) == MOST_FAULTS + 1
    assert "not looked at" in found.value.faults[-1].message


@pytest.mark.parametrize("zone", [{}, {"time_zone": None}, {"time_zone": ""}])
def test_a_time_zone_that_is_not_named_is_none_and_no_unknown_field(zone: dict[str, Any]) -> None:
    faults: list[SchemaFault] = []
    reader = ObjectReader(zone, "context", faults)
    assert read_time_zone(reader) is None
    reader.end()
    assert faults == []
    assert training(**zone).time_zone == SETTINGS.time_zone


def test_a_time_zone_that_there_is_not_is_a_fault() -> None:
    assert faults(time_zone="Mars/Base") == {("time_zone", "not_in_enum")}
