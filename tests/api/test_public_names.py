"""A base that is a folder is called by its last part in answers, never by its path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services, build_services
from adapter_service.base_models.locating import public_name
from adapter_service.settings import ModelSettings
from tests.api.conftest import QuickPipeline, client_of, settings_in
from tests.api.test_adapters_answer import trained
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("package:smollm2-135m", "package:smollm2-135m"),
        ("google/gemma-3-270m", "google/gemma-3-270m"),
        ("gpt2", "gpt2"),
        ("/srv/bases/my-base", "my-base"),
        ("~/bases/my-base/", "my-base"),
        ("bases/small.Q4_K_M.gguf", "small.Q4_K_M.gguf"),
    ],
)
def test_a_path_is_called_by_its_last_part(name: str, shown: str) -> None:
    assert public_name(name) == shown


def test_a_folder_that_could_be_a_hub_id_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bases" / "mine").mkdir(parents=True)
    assert public_name("bases/mine") == "bases/mine"
    monkeypatch.chdir(tmp_path)
    assert public_name("bases/mine") == "mine"


@pytest.fixture(scope="module")
def folder_services(
    tiny_base: BaseModel, tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    settings = settings_in(tmp_path_factory.mktemp("named"), model=ModelSettings(base=str(tiny_base_folder)))
    services = build_services(settings, load_base=lambda note: tiny_base, make_pipeline=lambda *_: QuickPipeline())
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    trained(services, tmp_path_factory.mktemp("foreign"), "foreign", "1", base_id="another")
    yield services
    services.stop()


@pytest.fixture
def folder_client(folder_services: Services) -> TestClient:
    return client_of(folder_services)


ASK: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/health", None),
        ("GET", "/metrics", None),
        ("GET", "/adapter/list", None),
        ("POST", "/detokenize", {"ids": [10**6]}),
        ("POST", "/v1/chat/completions", ASK | {"stop_token_ids": [10**6]}),
        ("POST", "/v1/chat/completions", ASK | {"messages": [{"role": "user", "content": "x" * 600}]}),
        ("POST", "/generate-lite", {"prompt": "x" * 600, "adapter": "base"}),
        ("POST", "/generate-lite", {"prompt": "x", "adapter": "base", "return_tokens": True, "max_new_tokens": 1}),
        ("POST", "/generate-lite", {"prompt": "x", "adapter": "base", "base_model": "another"}),
        ("POST", "/v1/chat/completions", ASK | {"model": "foreign"}),
        ("POST", "/adapter/train-lite", {"init_adapter": "foreign"}),
    ],
)
def test_no_answer_has_the_path(
    folder_client: TestClient, tiny_base_folder: Path, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = folder_client.request(method, path, json=body)
    assert str(tiny_base_folder.parent) not in answer.text
    if (body or {}).get("init_adapter") is None:
        assert tiny_base_folder.name in answer.text


def test_the_name_that_answers_have_can_be_asked_for(folder_client: TestClient, tiny_base_folder: Path) -> None:
    for name in ("base", tiny_base_folder.name, str(tiny_base_folder)):
        answer = folder_client.post("/v1/chat/completions", json=ASK | {"model": name, "max_tokens": 1})
        assert (answer.status_code, answer.json()["model"]) == (200, "base")
    body = {"prompt": "x", "adapter": "base", "max_new_tokens": 1, "base_model": tiny_base_folder.name}
    assert folder_client.post("/generate-lite", json=body).status_code == 200


def test_an_adapter_that_is_called_like_the_bases_folder_answers_to_its_name(
    folder_services: Services, folder_client: TestClient, tiny_base_folder: Path, tmp_path: Path
) -> None:
    version = trained(folder_services, tmp_path, tiny_base_folder.name, "2")
    answer = folder_client.get(f"/v1/models/{tiny_base_folder.name}").json()
    folder_services.versions.remove(version, force=True)
    assert answer["root"] == version.reference
