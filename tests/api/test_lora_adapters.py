"""Loading and unloading as vLLM's clients ask for it."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.adapters import Version
from adapter_service.api.services import Services
from tests.api.conftest import client_of
from tests.api.test_adapters_answer import trained


@pytest.fixture
def tiny_client(tiny_services: Services) -> TestClient:
    return client_of(tiny_services)


@pytest.fixture(scope="module")
def version(tiny_services: Services, tmp_path_factory: pytest.TempPathFactory) -> Version:
    return trained(tiny_services, tmp_path_factory.mktemp("loadable"), "loadable", "f")


def load(client: TestClient, name: str, path: str, **more: Any) -> Any:
    return client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path, **more})


def unload(client: TestClient, name: str) -> Any:
    return client.post("/v1/unload_lora_adapter", json={"lora_name": name})


def test_a_version_is_loaded_and_unloaded_with_vllms_words(
    tiny_client: TestClient, tiny_services: Services, version: Version
) -> None:
    name = version.reference
    loaded = load(tiny_client, name, name)
    assert (loaded.status_code, loaded.text) == (200, f"Success: LoRA adapter '{name}' added successfully.")
    assert loaded.headers["content-type"].startswith("text/plain")
    assert version.key in tiny_services.engine.resident_adapters()
    assert load(tiny_client, name, name).json()["error"]["message"] == (
        f"The lora adapter '{name}' has already been loaded."
    )
    gone = unload(tiny_client, name)
    assert (gone.status_code, gone.text) == (200, f"Success: LoRA adapter '{name}' removed successfully.")
    assert load(tiny_client, name, name).status_code == 200
    assert unload(tiny_client, name).status_code == 200


def test_what_is_live_may_be_loaded_by_its_adapters_name(tiny_client: TestClient, version: Version) -> None:
    assert load(tiny_client, "loadable", version.reference).status_code == 200
    assert unload(tiny_client, "loadable").status_code == 200


@pytest.mark.parametrize(
    ("name", "path", "more", "status", "kind"),
    [
        ("nobody@1", "nobody@1", {}, 404, "NotFoundError"),
        ("x", "/etc/passwd", {}, 400, "InvalidUserInput"),
        ("x", "../x", {}, 400, "InvalidUserInput"),
        ("base", "base", {}, 404, "NotFoundError"),
        ("another", "loadable", {}, 400, "InvalidUserInput"),
        ("loadable", "loadable", {"load_inplace": True}, 400, "InvalidUserInput"),
        ("", "loadable", {}, 400, "InvalidUserInput"),
    ],
)
def test_what_is_not_a_known_version_is_refused(
    tiny_client: TestClient, version: Version, name: str, path: str, more: dict[str, Any], status: int, kind: str
) -> None:
    answer = load(tiny_client, name, path, **more)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


def test_an_older_version_is_not_loaded_by_the_name_that_another_answers(
    tiny_client: TestClient, tiny_services: Services, tmp_path_factory: pytest.TempPathFactory
) -> None:
    older, _ = (trained(tiny_services, tmp_path_factory.mktemp(key), "renewed", key) for key in ("a", "b"))
    answer = load(tiny_client, "renewed", older.reference)
    assert answer.status_code == 400
    assert "'renewed' is answered by renewed@2" in answer.json()["error"]["message"]


def test_a_version_for_another_base_is_not_loaded(
    tiny_client: TestClient, tiny_services: Services, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = trained(tiny_services, tmp_path_factory.mktemp("other"), "of-another", "9", base_id="another")
    answer = load(tiny_client, other.reference, other.reference)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert "another base" in answer.json()["error"]["message"]


def test_what_was_not_loaded_cannot_be_unloaded(tiny_client: TestClient) -> None:
    answer = unload(tiny_client, "never")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "NotFoundError")
    assert answer.json()["error"]["message"] == "The lora adapter 'never' cannot be found."


def test_a_missing_field_is_vllms_kind_of_error(tiny_client: TestClient) -> None:
    answer = tiny_client.post("/v1/load_lora_adapter", json={"lora_name": "x"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "InvalidUserInput")
