"""Nobody makes more requests in a minute than the settings allow, and nobody is forgotten for it too early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.api import rate_limit
from adapter_service.api.authentication import FAILURES_PER_MINUTE
from adapter_service.api.rate_limit import MOST_NAMES, MovingWindow, network_of
from adapter_service.auth import KeyStore
from adapter_service.errors import RateLimitedError
from adapter_service.settings import SecuritySettings
from tests.api.conftest import MakeServices, client_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def passes(window: MovingWindow, name: str = "key") -> bool:
    try:
        window.hit(name, "requests")
    except RateLimitedError:
        return False
    return True


def test_so_many_pass_within_a_minute_and_the_next_hears_when() -> None:
    clock = Clock()
    window = MovingWindow(3, clock=clock)
    assert [passes(window) for _ in range(3)] == [True] * 3
    clock.now += 20.5
    with pytest.raises(RateLimitedError, match="3 requests within a minute; try again in 40 s") as raised:
        window.hit("key", "requests")
    assert raised.value.retry_after_seconds == 40
    clock.now += 40
    assert passes(window)


def test_everybody_is_counted_alone() -> None:
    window = MovingWindow(1, clock=Clock())
    assert passes(window, "a")
    assert passes(window, "b")
    assert not passes(window, "a")


@given(st.integers(1, 5), st.lists(st.floats(0, 90), max_size=60))
def test_no_minute_has_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    clock = Clock()
    window = MovingWindow(limit, clock=clock)
    taken: list[float] = []
    for pause in pauses:
        clock.now += pause
        within = sum(at > clock.now - 60 for at in taken)
        assert passes(window) == (within < limit)
        if within < limit:
            taken.append(clock.now)


def test_a_stranger_with_many_addresses_fills_no_memory() -> None:
    window = MovingWindow(30, clock=Clock())
    for number in range(MOST_NAMES + 500):
        window.hit(f"2001:db8:{number:x}::/64", "requests")
    assert len(window._hits) == MOST_NAMES


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("an unknown address", "an unknown address"),
    ],
)
def test_who_has_a_whole_network_is_counted_once(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_key_that_asks_too_often_gets_429_and_another_does_not(make_services: MakeServices) -> None:
    services = make_services(security=SecuritySettings(requests_per_minute=2))
    keys, client = KeyStore(services.database), client_of(services)
    busy, quiet = ({"X-API-Key": keys.create(name, {"read"})[1]} for name in ("busy", "quiet"))
    statuses = [client.get("/sources", headers=busy).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = client.get("/v1/models", headers=busy)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert client.get("/sources", headers=quiet).status_code == 200


def test_a_stranger_without_a_key_is_counted_where_none_is_needed(make_services: MakeServices) -> None:
    services = make_services(security=SecuritySettings(requests_per_minute=2, loopback_only=False))
    KeyStore(services.database).create("hub", {"app"})
    stranger = client_of(services, "203.0.113.5")
    headers = {"Host": "hub.example"}
    assert [stranger.get("/health", headers=headers).status_code for _ in range(3)] == [200, 200, 429]
    assert client_of(services).get("/health").status_code == 200


def test_without_keys_nobody_here_is_counted(make_services: MakeServices) -> None:
    client = client_of(make_services(security=SecuritySettings(requests_per_minute=1)))
    assert [client.get("/sources").status_code for _ in range(5)] == [200] * 5


def test_nought_is_no_limit(make_services: MakeServices) -> None:
    services = make_services(security=SecuritySettings(requests_per_minute=0))
    client = client_of(services)
    client.headers["X-API-Key"] = KeyStore(services.database).create("hub", {"read"})[1]
    assert [client.get("/sources").status_code for _ in range(5)] == [200] * 5


def test_guessing_is_slow_and_locks_nobody_else_out(make_services: MakeServices) -> None:
    services = make_services()
    client = client_of(services)
    _, secret = KeyStore(services.database).create("hub", {"read"})
    wrong = [client.get("/sources", headers={"X-API-Key": f"ask_{n}"}).status_code for n in range(FAILURES_PER_MINUTE)]
    assert set(wrong) == {401}
    refused = client.get("/sources", headers={"X-API-Key": "ask_wrong"})
    assert (refused.status_code, "Retry-After" in refused.headers) == (429, True)
    assert client.get("/sources", headers={"X-API-Key": secret}).status_code == 200


def test_a_minute_is_a_minute() -> None:
    assert rate_limit.WINDOW_SECONDS == 60
