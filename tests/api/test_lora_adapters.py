"""Loading and unloading as vLLM's clients ask for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.adapters import Version
from adapter_service.adapters.artifact import verify_folder
from adapter_service.api.services import Services
from adapter_service.errors import InvalidParameterError, UnknownAdapterError
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


def test_one_version_under_both_its_names_leaves_no_pin_when_both_are_unloaded(
    tiny_client: TestClient, tiny_services: Services, version: Version
) -> None:
    residency = tiny_services.engine._residency
    for name in ("loadable", version.reference):
        assert load(tiny_client, name, version.reference).status_code == 200
    assert unload(tiny_client, "loadable").status_code == 200
    assert residency.pinned() == {version.key}
    assert unload(tiny_client, version.reference).status_code == 200
    assert residency.pinned() == frozenset()


def test_a_slow_disk_holds_up_no_other_name_and_its_own_is_loaded_once(
    tiny_client: TestClient,
    tiny_services: Services,
    version: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, loaded = trained(tiny_services, tmp_path, "slow", "4"), tiny_services.loaded_adapters
    is_read, may_go_on = threading.Event(), threading.Event()

    def verify(folder: Path, *args: Any) -> Any:
        is_read.set()
        assert may_go_on.wait(30)
        return verify_folder(folder, *args)

    loaded.load("loadable", version)
    monkeypatch.setattr("adapter_service.engine.serving.verify_folder", verify)
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(loaded.load, "slow", slow)
        try:
            assert is_read.wait(30)
            pool.submit(loaded.unload, "loadable").result(30)
            with pytest.raises(InvalidParameterError, match="'slow' is already being loaded"):
                loaded.load("slow", slow)
            with pytest.raises(UnknownAdapterError, match="still being loaded; unload it when it is"):
                loaded.unload("slow")
        finally:
            may_go_on.set()
        loading.result(30)
    loaded.unload("slow")
    assert tiny_services.engine._residency.pinned() == frozenset()


def test_a_name_whose_load_failed_is_free_again(
    tiny_services: Services, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    loaded = tiny_services.loaded_adapters
    with monkeypatch.context() as patched:
        patched.setattr(tiny_services.engine, "pin", fail)
        with pytest.raises(OSError, match="Input/output"):
            loaded.load("loadable", version)
    loaded.load("loadable", version)
    loaded.unload("loadable")


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


def test_a_name_that_is_loaded_as_an_older_version_says_what_it_is_and_how_to_renew_it(
    tiny_client: TestClient, tiny_services: Services, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trained(tiny_services, tmp_path_factory.mktemp("d"), "codes", "d")
    assert load(tiny_client, "codes", "codes@1").status_code == 200
    trained(tiny_services, tmp_path_factory.mktemp("e"), "codes", "e")
    assert load(tiny_client, "codes", "codes@2").json()["error"]["message"] == (
        "The lora adapter 'codes' has already been loaded, as codes@1; for codes@2, unload it first "
        "(POST /v1/unload_lora_adapter), then load it again"
    )
    assert unload(tiny_client, "codes").status_code == 200
    assert load(tiny_client, "codes", "codes@2").status_code == 200
    assert unload(tiny_client, "codes").status_code == 200


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
