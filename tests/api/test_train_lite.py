"""Training requests: the names of both specifications, and a refusal for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.adapters import Version
from adapter_service.api.schemas.training import OLDER_NAMES, TrainBody
from adapter_service.api.services import Services
from adapter_service.api.training_requests import check_possible, request_of
from adapter_service.jobs.train_request import OVERRIDES, TrainRequest, settings_for
from adapter_service.settings import LoraSettings, TrainingSettings
from tests.api.conftest import MakeServices, client_of
from tests.conftest import SMALL_BASE

# A value for every field that a request may have, none of them the default.
VALUES: dict[str, Any] = {
    "adapter": "hindi",
    "init_adapter": None,  # needs a version; see test_a_start_from_an_unknown_adapter_is_404
    "source": "other",
    "max_train_samples": 7,
    "languages": ["hi", "Tamil"],
    "preset": "fast",
    "num_epochs": 3,
    "max_steps": 9,
    "per_device_train_batch_size": 5,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.002,
    "loraplus_lr_ratio": 16.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 4,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "max_seq_length": 64,
    "token_budget": 1024,
    "save_steps": 11,
    "seed": 42,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj"],
    "lora_layers": "top-half",
    "use_rslora": True,
    "loss_vocabulary": "sampled",
}


def train(client: TestClient, body: dict[str, Any], **headers: str) -> Any:
    return client.post("/adapter/train-lite", json=body, headers=headers)


def test_an_empty_body_queues_the_configured_job(client: TestClient, services: Services) -> None:
    response = train(client, {})
    answer = response.json()
    assert (response.status_code, answer["status"]) == (202, "queued")
    assert response.headers["Location"] == f"/adapter/status/{answer['job_id']}"
    assert answer["estimate"]["samples"] == 3
    assert services.jobs.get(answer["job_id"]).adapter == "multilingual"


def test_the_values_of_this_test_are_all_there_are() -> None:
    assert VALUES.keys() == TrainRequest.model_fields.keys()


@pytest.mark.parametrize("field", OVERRIDES)
def test_every_field_reaches_the_settings_of_the_job(client: TestClient, services: Services, field: str) -> None:
    job = services.jobs.get(train(client, {field: VALUES[field]}).json()["job_id"])
    section, key = OVERRIDES[field]
    changed = settings_for(TrainRequest(**job.request), services.settings)
    assert getattr(getattr(changed, section), key) == VALUES[field]


@pytest.mark.parametrize(("older", "field"), OLDER_NAMES.items())
def test_older_names_mean_the_same(services: Services, older: str, field: str) -> None:
    value = VALUES.get(field, SMALL_BASE)
    written, today = TrainBody(**{older: value}), TrainBody(**{field: value})
    request = request_of(today, services.settings)
    check_possible(request, services)
    assert request_of(written, services.settings) == request


def test_one_language_needs_no_list(services: Services) -> None:
    assert request_of(TrainBody(lang="hi"), services.settings).languages == ["hi"]  # type: ignore[call-arg]


def test_two_names_of_one_field_must_agree(client: TestClient) -> None:
    response = train(client, {"max_samples": 5, "max_train_samples": 6})
    assert response.status_code == 422
    assert response.json()["parameter"] == "max_train_samples"
    assert train(client, {"max_samples": 5, "max_train_samples": 5}).status_code == 202


def test_an_unknown_field_is_refused_with_a_guess(client: TestClient) -> None:
    problem = train(client, {"learning_rat": 0.1}).json()
    assert (problem["status"], problem["parameter"]) == (422, "learning_rat")
    assert "did you mean 'learning_rate'?" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"epochs": "many"}, "epochs"),
        ({"num_epochs": True}, "num_epochs"),
        ({"max_samples": "40"}, "max_samples"),
        ({"learning_rate": "0.001"}, "learning_rate"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"adapter": "../x"}, "adapter"),
        ({"adapter": "base"}, "adapter"),
        ({"languages": ["Klingon"]}, "languages"),
        ({"use_8bit": True}, "use_8bit"),
        ({"base_model": "gpt2"}, "base_model"),
        ({"config_path": "/etc/passwd"}, "config_path"),
        ({"mcp_config_path": "mcp_connectors.yml"}, "mcp_config_path"),  # this service runs without that file
    ],
)
def test_an_impossible_value_is_refused_by_the_name_it_was_written_under(
    client: TestClient, body: dict[str, Any], parameter: str
) -> None:
    problem = train(client, body).json()
    assert (problem["status"], problem["parameter"]) == (422, parameter)


def test_a_value_out_of_bounds_is_told_its_bounds(client: TestClient) -> None:
    problem = train(client, {"learning_rate": 5}).json()
    assert problem["status"] == 422
    assert "learning_rate' is 5" in problem["detail"]
    assert "less than or equal to 1" in problem["detail"]


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'"x"'])
def test_a_body_that_is_no_object_is_refused_in_words(client: TestClient, body: bytes) -> None:
    response = client.post("/adapter/train-lite", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert "body" in response.json()["detail"]


def test_what_is_resident_may_be_said(client: TestClient) -> None:
    expected = {"base_model": SMALL_BASE, "use_8bit": False, "config_path": "adapter_config.yaml"}
    assert train(client, expected).status_code == 202


def test_an_unknown_source_is_404_with_those_that_are_known(client: TestClient) -> None:
    problem = train(client, {"source": "smal"}).json()
    assert (problem["status"], problem["code"]) == (404, "unknown_source")
    assert "did you mean 'small'?" in problem["detail"]
    assert "other" in problem["detail"]


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("https://data.example/corpus.jsonl", 202),
        ("https://data.example.evil/corpus.jsonl", 403),
        ("https://elsewhere.example/corpus.jsonl", 403),
        ("file:///etc/passwd", 403),
        ("hf:allenai/c4", 403),
        ("s3://corpora/a.jsonl", 403),
        ("ftp://data.example/corpus.jsonl", 422),
    ],
)
def test_an_address_needs_the_allow_list(client: TestClient, source: str, status: int) -> None:
    assert train(client, {"source": source}).status_code == status


def test_a_start_from_an_unknown_adapter_is_404(client: TestClient) -> None:
    assert train(client, {"init_adapter": "nobody@2"}).json()["code"] == "unknown_adapter"


@pytest.mark.parametrize(
    ("body", "status", "parameter"),
    [
        ({}, 202, None),
        ({"lora_r": 3}, 202, None),
        ({"lora_r": 4}, 422, "lora_r"),
        ({"target_modules": ["q_proj"]}, 422, "target_modules"),
        ({"lora_layers": "top-half"}, 422, "lora_layers"),
    ],
)
def test_a_start_from_an_adapter_keeps_its_shape(
    client: TestClient, services: Services, tmp_path: Path, body: dict[str, Any], status: int, parameter: str | None
) -> None:
    lora = LoraSettings(r=3).model_dump(mode="json")
    services.versions.go_live(published(services, tmp_path, {"lora": lora}))
    response = train(client, {"init_adapter": "parent", **body})
    assert (response.status_code, response.json().get("parameter")) == (status, parameter)


def test_a_start_from_an_adapter_that_was_not_trained_here_is_refused(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    services.versions.go_live(published(services, tmp_path, None))
    problem = train(client, {"init_adapter": "parent"}).json()
    assert (problem["status"], problem["parameter"]) == (422, "init_adapter")
    assert "training_metadata.json" in problem["detail"]


def published(services: Services, folder: Path, described: dict[str, Any] | None) -> Version:
    work = folder / "work"
    work.mkdir()
    (work / "adapter_config.json").write_text("{}")
    (work / "adapter_model.safetensors").write_bytes(b"")
    if described is not None:
        (work / "training_metadata.json").write_text(json.dumps(described))
    return services.versions.publish("parent", work, key="a" * 16, job_id=None, base_id="b")


@pytest.mark.model
def test_layers_that_the_base_lacks_are_refused_once_it_is_ready(model_client: TestClient) -> None:
    problem = train(model_client, {"target_modules": ["q_proj", "nope"]}).json()
    assert (problem["status"], problem["parameter"]) == (422, "target_modules")
    assert "['nope'] match no linear layer" in problem["detail"]
    assert "v_proj" in problem["detail"]
    assert train(model_client, {"target_modules": ["q_proj"]}).status_code == 202


@pytest.mark.model
def test_a_start_from_an_adapter_of_another_base_is_refused_once_ours_is_ready(
    model_client: TestClient, model_services: Services, tmp_path: Path
) -> None:
    lora = LoraSettings().model_dump(mode="json")
    model_services.versions.go_live(published(model_services, tmp_path, {"lora": lora}))
    problem = train(model_client, {"init_adapter": "parent"}).json()
    assert (problem["status"], problem["parameter"]) == (422, "init_adapter")
    assert "another base" in problem["detail"]


def test_the_same_idempotency_key_makes_one_job(client: TestClient) -> None:
    first, again = (train(client, {"seed": 1}, **{"Idempotency-Key": "k"}).json() for _ in range(2))
    assert first["job_id"] == again["job_id"]
    other = train(client, {"seed": 2}, **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (409, "duplicate_request")


def test_a_repeated_request_has_its_job_though_the_settings_of_today_refuse_it(make_services: MakeServices) -> None:
    body, key = {"token_budget": 512}, {"Idempotency-Key": "k"}
    first = train(client_of(make_services(make_pipeline=None)), body, **key).json()
    longer = TrainingSettings(max_seq_length=1024, token_budget=1024)
    today = client_of(make_services(make_pipeline=None, training=longer))
    again = train(today, body, **key)
    assert (again.status_code, again.json()["job_id"]) == (202, first["job_id"])
    assert again.json()["estimate"].keys() == first["estimate"].keys()
    assert "'max_seq_length' is 1024, more than 'token_budget' (512)" in again.json()["estimate"]["message"]
    assert train(today, body).status_code == 422


def test_a_full_queue_says_when_to_come_back(make_services: MakeServices) -> None:
    client = client_of(make_services(serving={"job_queue_size": 1}))
    assert train(client, {}).status_code == 202
    response = train(client, {})
    assert (response.status_code, response.json()["code"]) == (429, "busy")
    assert response.headers["Retry-After"] == "60"
