"""Models as OpenAI's own client lists them, and what is not one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.settings import ServingSettings
from tests.api.conftest import MakeServices, client_of
from tests.api.test_adapters_answer import trained
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


def test_the_base_and_every_live_adapter_are_listed(
    tiny_openai: openai.OpenAI, tiny_services: Services, tmp_path: Path
) -> None:
    version = trained(tiny_services, tmp_path, "listed", "d")
    found = {model.id: model.to_dict() for model in tiny_openai.models.list()}
    assert (found["base"]["parent"], found["base"]["root"]) == (None, tiny_services.settings.model.base)
    assert (found["listed"]["parent"], found["listed"]["root"]) == ("base", version.reference)
    assert found["listed"]["max_model_len"] == 512
    assert version.reference not in found
    assert version.reference in {m.id for m in tiny_openai.models.list(extra_query={"versions": True})}


def test_one_is_retrieved_by_each_of_its_names(
    tiny_openai: openai.OpenAI, tiny_services: Services, tmp_path: Path
) -> None:
    version = trained(tiny_services, tmp_path, "found", "e")
    for name in ("base", tiny_services.settings.model.base, "found", version.reference):
        assert tiny_openai.models.retrieve(name).id == name


def test_the_length_is_what_is_taken_and_not_what_the_base_could_read(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    serving = ServingSettings(max_prompt_tokens=100, max_new_tokens_limit=50, default_max_new_tokens=50)
    services = make_services(load_base=lambda note: tiny_base, serving=serving)
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    (base,) = client_of(services).get("/v1/models").json()["data"]
    assert base["max_model_len"] == 150
    services.stop()


@pytest.mark.parametrize("model", ["nobody", "nobody@3", "gpt-4o", "none", "org/model", ""])
def test_an_unknown_model_is_not_found_and_never_answered_by_the_base(tiny_openai: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    with pytest.raises(openai.NotFoundError) as refused:
        tiny_openai.chat.completions.create(model=model, messages=messages)  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        tiny_openai.completions.create(model=model, prompt="Hello")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("none", "'none' is no adapter: 'none' means no adapter at all, which has no versions; ask for 'base'"),
        ("base@1", "'base@1' is no adapter: 'base' means the base model alone, which has no versions; ask for 'base'"),
    ],
)
def test_a_name_that_means_no_adapter_is_told_what_to_ask_for(client: TestClient, model: str, told: str) -> None:
    answer = client.post("/v1/completions", json={"model": model, "prompt": "Hello"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"{told}, or for an adapter by its name")


def test_models_are_listed_while_the_base_loads(client: TestClient) -> None:
    (base,) = client.get("/v1/models").json()["data"]
    assert (base["id"], base["max_model_len"]) == ("base", None)
