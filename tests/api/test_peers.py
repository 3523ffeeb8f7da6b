"""Only peers on this machine are answered, and no web page through them."""

from __future__ import annotations

import pytest

from adapter_service.api.peers import is_loopback, is_loopback_name
from adapter_service.api.services import Services
from tests.api.conftest import client_of


def test_a_peer_from_elsewhere_gets_401_with_the_reason(services: Services) -> None:
    response = client_of(services, "203.0.113.5").get("/health")
    assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")
    assert "203.0.113.5" in response.json()["detail"]
    assert "WWW-Authenticate" in response.headers


def test_forwarded_headers_make_nobody_local(services: Services) -> None:
    headers = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"}
    assert client_of(services, "203.0.113.5").get("/health", headers=headers).status_code == 401


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_a_peer_on_this_machine_is_answered(services: Services, peer: str) -> None:
    assert client_of(services, peer).get("/health").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:8100", "", "[::1"])
def test_a_host_that_is_not_this_machine_is_refused(services: Services, host: str) -> None:
    assert client_of(services).get("/health", headers={"Host": host}).status_code == 401


@pytest.mark.parametrize("host", ["localhost:8100", "[::1]:8100", "127.0.0.1", "adapter.localhost"])
def test_every_name_of_this_machine_will_do(services: Services, host: str) -> None:
    assert client_of(services).get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[here]"])
def test_a_foreign_page_cannot_make_a_browser_act_here(services: Services, origin: str) -> None:
    response = client_of(services).post("/adapter/multilingual/rollback", headers={"Origin": origin})
    assert response.status_code == 401


def test_a_page_of_this_machine_may(services: Services) -> None:
    headers = {"Origin": "http://localhost:3000"}
    assert client_of(services).get("/health", headers=headers).status_code == 200


def test_names_that_only_look_local_are_not() -> None:
    assert not is_loopback("testclient")
    assert not is_loopback("::ffff:10.0.0.1")
    assert not is_loopback_name("localhost.evil.example")
    assert not is_loopback_name("")


@pytest.mark.parametrize("forwarded", ["203.0.113.5", "127.0.0.1, 203.0.113.5", "unknown"])
def test_whoever_a_proxy_here_speaks_for_is_not_local(services: Services, forwarded: str) -> None:
    response = client_of(services).get("/health", headers={"X-Forwarded-For": forwarded})
    assert response.status_code == 401
    assert "X-Forwarded-For" in response.json()["detail"]


def test_a_proxy_may_speak_for_this_machine(services: Services) -> None:
    assert client_of(services).get("/health", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 200
