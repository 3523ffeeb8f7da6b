"""Answers of an adapter: which version, of which base, and the way from a folder to an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.adapters import Version
from adapter_service.api.services import Services
from adapter_service.engine.turn import Turn

pytestmark = pytest.mark.model


def trained(services: Services, folder: Path, name: str, key: str, base_id: str | None = None) -> Version:
    """A live version of random weights."""

    def write(turn: Turn) -> None:
        from adapter_service.lora.adapter import Adapter, LoraConfig
        from adapter_service.lora.folder import write_folder

        adapter = Adapter.fresh(LoraConfig(r=2, alpha=64), turn.layers, seed=1)
        for pair in adapter.pairs.values():
            pair.b.data.fill_(0.02)
        write_folder(adapter, folder, base_name=turn.base.name)

    services.engine.run(write)
    base_id = base_id or services.engine.base.identity
    candidate = services.versions.publish(name, folder, key=key * 16, job_id=None, base_id=base_id)
    return services.versions.go_live(candidate)


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/generate-lite", json={"prompt": "Translate to Hindi: Water", "max_new_tokens": 8, **body})


def test_an_adapter_answers_by_name_by_version_and_as_the_default(
    model_services: Services, model_client: TestClient, tmp_path: Path
) -> None:
    version = trained(model_services, tmp_path, "multilingual", "a")
    by_name, by_number, default = (
        ask(model_client, **body).json() for body in ({"adapter": "multilingual"}, {"adapter": version.reference}, {})
    )
    assert (by_name["adapter"], by_name["version"]) == ("multilingual", version.number)
    assert by_name["text"] == by_number["text"] == default["text"] != ask(model_client, adapter="base").json()["text"]
    assert version.key in model_client.get("/health").json()["resident_adapters"]


def test_a_version_of_another_base_does_not_answer(
    model_services: Services, model_client: TestClient, tmp_path: Path
) -> None:
    trained(model_services, tmp_path, "foreign", "b", base_id="another")
    response = ask(model_client, adapter="foreign")
    assert (response.status_code, response.json()["code"]) == (409, "conflict")


def test_an_adapter_answers_at_the_strength_that_is_asked_for(
    model_services: Services, model_client: TestClient, tmp_path: Path
) -> None:
    trained(model_services, tmp_path, "scaled", "c")
    whole, half, none = (
        ask(model_client, adapter="scaled", return_tokens=True, repetition_penalty=1.0, lora_scale=scale).json()
        for scale in (1.0, 0.5, 0.0)
    )
    as_it_is = ask(model_client, adapter="scaled", return_tokens=True, repetition_penalty=1.0).json()
    assert whole["tokens"] == as_it_is["tokens"]
    assert len({tuple(answer["tokens"]["logprobs"]) for answer in (whole, half, none)}) == 3
    assert [answer["tokens"]["sampling"]["lora_scale"] for answer in (whole, half, none)] == [1.0, 0.5, 0.0]
