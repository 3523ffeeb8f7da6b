"""Every field of a request reaches the job's settings, and no other setting moves."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from adapter_service.errors import InvalidParameterError, SettingsError
from adapter_service.jobs.train_request import OVERRIDES, TrainRequest, going_on_from, settings_for
from adapter_service.settings import Settings

# Field → a value that is not the default.
OTHER_VALUES: dict[str, Any] = {
    "source": "my_corpus",
    "max_train_samples": 17,
    "languages": ["hi", "ta"],
    "preset": "small",
    "num_epochs": 3,
    "max_steps": 12,
    "per_device_train_batch_size": 5,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "loraplus_lr_ratio": 16.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 1,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "max_seq_length": 64,
    "token_budget": 1024,
    "save_steps": 9,
    "seed": 4,
    "lora_r": 4,
    "lora_alpha": 9,
    "lora_dropout": 0.25,
    "target_modules": ["q_proj"],
    "lora_layers": "top-half",
    "use_rslora": True,
    "loss_vocabulary": "sampled",
}
# What only the configuration file says; a new key has to be put here or into OVERRIDES.
IN_THE_FILE_ALONE = {
    ("lora", "rank_pattern"),
    ("lora", "alpha_pattern"),
    ("training", "min_lr_ratio"),
    ("training", "adam_beta1"),
    ("training", "adam_beta2"),
    ("training", "prefix_gradient"),
    ("training", "embedding_noise"),
    ("loss", "sampled_tokens"),
}


def test_every_field_of_a_request_is_in_the_table_and_in_this_test() -> None:
    assert OVERRIDES.keys() == TrainRequest.model_fields.keys() - {"adapter", "init_adapter"} == OTHER_VALUES.keys()


@pytest.mark.parametrize("section", ["lora", "training", "loss"])
def test_every_setting_can_be_requested_or_is_meant_for_the_file(section: str) -> None:
    keys = {(section, key) for key in getattr(Settings(), section).model_dump()}
    requested = {place for place in OVERRIDES.values() if place[0] == section}
    assert keys == requested | {place for place in IN_THE_FILE_ALONE if place[0] == section}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_field_changes_its_setting_and_nothing_else(field: str) -> None:
    section, key = OVERRIDES[field]
    before = Settings().model_dump()
    after = settings_for(TrainRequest(adapter="a", **{field: OTHER_VALUES[field]}), Settings()).model_dump()
    assert before[section][key] != OTHER_VALUES[field]
    before[section][key] = OTHER_VALUES[field]
    assert after == before


def test_what_is_not_requested_stays_as_configured() -> None:
    configured = Settings.model_validate({"training": {"learning_rate": 0.02}, "lora": {"r": 3}})
    assert settings_for(TrainRequest(adapter="a"), configured) == configured


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 3.0}, r"learning_rate.*3\.0"),
        ({"num_epochs": 0}, "num_epochs.*0"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type.*cosin"),
        ({"target_modules": []}, "target_modules"),
        ({"lora_layers": "top"}, "layers.*top"),
        ({"loraplus_lr_ratio": 0.5}, r"loraplus_lr_ratio.*0\.5"),
        ({"token_budget": 64}, "'max_seq_length' is 512, more than 'token_budget'"),
    ],
)
def test_a_value_out_of_bounds_is_refused_as_in_a_file(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_for(TrainRequest(adapter="a", **values), Settings())


def test_a_longer_sample_raises_a_budget_that_nobody_asked_for() -> None:
    longer = settings_for(TrainRequest(adapter="a", max_seq_length=700), Settings()).training
    assert (longer.max_seq_length, longer.token_budget) == (700, 700)
    assert settings_for(TrainRequest(adapter="a", max_seq_length=300), Settings()).training.token_budget == 512
    with pytest.raises(SettingsError, match="'max_seq_length' is 700, more than 'token_budget'"):
        settings_for(TrainRequest(adapter="a", max_seq_length=700, token_budget=600), Settings())


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        TrainRequest.model_validate({"adapter": "a", "learningrate": 1})


def test_a_request_survives_the_job_table() -> None:
    request = TrainRequest(adapter="a", init_adapter="b@2", **OTHER_VALUES)
    assert TrainRequest.model_validate(request.given()) == request


PARENT = {"r": 4, "alpha": 9, "dropout": 0.5, "target_modules": ["q_proj"], "use_rslora": True}


def test_going_on_from_an_adapter_takes_its_shape_and_not_its_dropout() -> None:
    settings = going_on_from(PARENT, TrainRequest(adapter="a", init_adapter="b"), Settings())
    assert settings.lora.model_dump() == Settings().lora.model_dump() | PARENT | {"dropout": 0.0}


def test_going_on_from_the_upper_half_or_from_before_there_was_one_keeps_the_layers() -> None:
    halved = Settings.model_validate({"lora": {"layers": "top-half"}})
    on = TrainRequest(adapter="a", init_adapter="b")
    assert going_on_from(PARENT | {"layers": "top-half"}, on, Settings()).lora.layers == "top-half"
    assert going_on_from(PARENT, on, halved).lora.layers == "all"
    with pytest.raises(InvalidParameterError, match="lora_layers = 'top-half', but 'b' was trained with 'all'"):
        going_on_from(PARENT, TrainRequest(adapter="a", init_adapter="b", lora_layers="top-half"), Settings())


def test_asking_for_the_shape_that_the_parent_has_is_no_conflict() -> None:
    request = TrainRequest(adapter="a", init_adapter="b", lora_r=4, use_rslora=True, lora_dropout=0.1)
    assert going_on_from(PARENT, request, Settings()).lora.r == 4


def test_another_shape_than_the_parents_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="target_modules = 'all-linear', but 'b' was trained with"):
        going_on_from(PARENT, TrainRequest(adapter="a", init_adapter="b", target_modules="all-linear"), Settings())
