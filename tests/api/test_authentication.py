"""Who is answered: peers on this machine while there are no keys, and then whoever has one that is good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.auth import KeyStore
from adapter_service.database import Database
from adapter_service.errors import ServiceAnswerError, SettingsError
from adapter_service.measuring.service_client import ServiceClient
from adapter_service.settings import SecuritySettings
from rl.config import ModelSettings, Prompt
from rl.errors import ServiceError
from rl.service import answered
from tests.api.conftest import MakeServices, client_of
from tests.api.listening import listening

STRANGER = "203.0.113.5"


@pytest.fixture
def keys(services: Services) -> KeyStore:
    return KeyStore(services.database)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def open_to_all(make_services: MakeServices) -> tuple[Services, KeyStore, str]:
    """A service that answers other machines, with one key."""
    services = make_services(security=SecuritySettings(loopback_only=False))
    keys = KeyStore(services.database)
    return services, keys, keys.create("hub", {"app"})[1]


def test_without_keys_a_peer_on_this_machine_may_everything(client: TestClient) -> None:
    assert client.get("/adapter/list").status_code == 200
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": "x"}).status_code == 404


def test_what_other_clients_send_for_a_key_is_no_matter_while_there_are_none(client: TestClient) -> None:
    assert client.get("/adapter/list", headers=bearer("none is needed")).status_code == 200
    assert client.get("/adapter/list", headers={"Authorization": "Basic dTpw"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/adapter/list", "/ready", "/metrics", "/openapi.json", "/docs", "/redoc", "/nothing"]
)
def test_with_a_key_in_the_table_every_request_needs_one(client: TestClient, keys: KeyStore, path: str) -> None:
    _, secret = keys.create("hub", {"app"})
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "keys create" in answer.json()["detail"]
    assert client.get(path, headers=bearer(secret)).status_code != 401


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"Authorization": f"bearer  {key} "},
        lambda key: {"X-API-Key": key},
        lambda key: {"Authorization": "Basic dTpw", "X-API-Key": key},
    ],
)
def test_a_key_may_come_in_two_ways(
    client: TestClient, keys: KeyStore, headers: Callable[[str], dict[str, str]]
) -> None:
    _, secret = keys.create("hub", {"read"})
    assert client.get("/adapter/list", headers=headers(secret)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {"Authorization": f"Bearer {key[:-1]}"},
        lambda key: {"Authorization": f"Bearer {key}x"},
        lambda key: {"Authorization": "Bearer "},
        lambda key: {"Authorization": key},
        lambda key: {"Authorization": f"Basic {key}"},
        lambda key: {"Authorization": "Bearer wrong", "X-API-Key": key},
        lambda key: {"X-API-Key": f"Bearer {key}"},
        lambda key: {"Cookie": f"key={key}"},
        lambda key: {"X-API-Key": "ask_é".encode()},
    ],
)
def test_what_is_not_quite_a_key_is_none(
    client: TestClient, keys: KeyStore, headers: Callable[[str], dict[str, str]]
) -> None:
    _, secret = keys.create("hub", {"read"})
    assert client.get("/adapter/list", headers=headers(secret)).status_code == 401
    assert client.get(f"/adapter/list?api_key={secret}").status_code == 401


def test_whether_the_service_is_alive_is_for_everybody(client: TestClient, keys: KeyStore) -> None:
    keys.create("hub", {"app"})
    assert client.get("/health").status_code == 200


def test_openai_clients_are_refused_in_their_words(client: TestClient, keys: KeyStore) -> None:
    keys.create("hub", {"app"})
    answer = client.get("/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert "WWW-Authenticate" in answer.headers


def test_a_key_that_another_process_revokes_is_refused_at_the_next_request(
    services: Services, client: TestClient, keys: KeyStore
) -> None:
    keys.create("admin", {"admin"})
    key, secret = keys.create("hub", {"read"})
    assert client.get("/adapter/list", headers=bearer(secret)).status_code == 200
    elsewhere = Database(services.database.path)
    KeyStore(elsewhere).revoke(key.id)
    elsewhere.close()
    answer = client.get("/adapter/list", headers=bearer(secret))
    assert (answer.status_code, "was revoked" in answer.json()["detail"]) == (401, True)


def test_an_expired_key_is_refused(client: TestClient, keys: KeyStore) -> None:
    _, secret = keys.create("guest", {"read"}, datetime.now(UTC) - timedelta(seconds=1))
    answer = client.get("/adapter/list", headers=bearer(secret))
    assert (answer.status_code, "has expired" in answer.json()["detail"]) == (401, True)


def test_when_the_last_key_is_revoked_this_machine_is_free_again_but_for_that_key(
    client: TestClient, keys: KeyStore
) -> None:
    key, secret = keys.create("hub", {"app"})
    keys.revoke(key.id)
    assert client.get("/adapter/list").status_code == 200
    assert client.get("/adapter/list", headers=bearer(secret)).status_code == 401


def test_loopback_only_keeps_strangers_out_with_a_key_too(services: Services, keys: KeyStore) -> None:
    _, secret = keys.create("hub", {"admin"})
    answer = client_of(services, STRANGER).get("/adapter/list", headers=bearer(secret))
    assert (answer.status_code, STRANGER in answer.json()["detail"]) == (401, True)
    assert client_of(services, STRANGER).get("/health").status_code == 401


def test_a_page_elsewhere_cannot_use_a_key_here_either(client: TestClient, keys: KeyStore) -> None:
    _, secret = keys.create("hub", {"admin"})
    headers = {**bearer(secret), "Origin": "https://evil.example"}
    assert client.get("/adapter/list", headers=headers).status_code == 401


def test_others_than_this_machine_are_answered_with_a_key(make_services: MakeServices) -> None:
    services, _, secret = open_to_all(make_services)
    stranger = client_of(services, STRANGER)
    assert stranger.get("/adapter/list", headers={**bearer(secret), "Host": "hub.example"}).status_code == 200
    assert stranger.get("/adapter/list").status_code == 401
    assert stranger.get("/health").status_code == 200


def test_behind_a_proxy_a_key_is_needed_by_everybody(make_services: MakeServices) -> None:
    services, _, secret = open_to_all(make_services)
    proxied = {"X-Forwarded-For": "127.0.0.1"}
    assert client_of(services).get("/adapter/list", headers=proxied).status_code == 401
    assert client_of(services).get("/adapter/list", headers={**proxied, **bearer(secret)}).status_code == 200


def test_when_every_key_is_revoked_strangers_are_answered_no_more(make_services: MakeServices) -> None:
    services, keys, secret = open_to_all(make_services)
    stranger, here = client_of(services, STRANGER), client_of(services)
    keys.revoke(keys.list()[0].id)
    for headers in ({}, bearer(secret), {"X-Forwarded-For": "127.0.0.1"}):
        assert stranger.get("/adapter/list", headers=headers).status_code == 401
        assert stranger.get("/health", headers=headers).status_code == 401
    assert here.get("/adapter/list").status_code == 200


def test_nothing_starts_that_answers_everybody_without_a_key(make_services: MakeServices) -> None:
    services = make_services(security=SecuritySettings(loopback_only=False))
    with pytest.raises(SettingsError, match="keys create"):
        client_of(services)
    KeyStore(services.database).create("old", {"admin"}, datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(SettingsError, match="keys create"):
        client_of(services)


def test_a_request_is_refused_before_its_body_is_looked_at(client: TestClient, keys: KeyStore) -> None:
    keys.create("hub", {"app"})
    assert client.post("/generate-lite", content=b"{ no json").status_code == 401
    assert client.post("/v1/files", content=b"x" * 100, headers={"Content-Length": "999999999"}).status_code == 401


def test_our_own_clients_show_the_key_of_the_environment(
    services: Services, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = keys.create("smoke", {"app"})
    with listening(services) as address:
        asked = ModelSettings(service_url=address, adapter="nobody")
        with pytest.raises(ServiceError, match="wants an API key"):
            list(answered([Prompt(prompt="Hi")], 1, asked, run_id="r", env_name="e"))
        with ServiceClient(address) as client, pytest.raises(ServiceAnswerError, match=r"401.*wants an API key"):
            client.ask("GET", "/sources")
        monkeypatch.setenv("ADAPTER_API_KEY", secret)
        with ServiceClient(address) as client:
            assert client.ask("GET", "/sources")["sources"]
        with pytest.raises(ServiceError, match="unknown adapter 'nobody'"):
            list(answered([Prompt(prompt="Hi")], 1, asked, run_id="r", env_name="e"))
