"""A node's key sees that node's things, and of others not even whether they are there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.api.callers import ANYBODY, LOOPBACK, Caller
from adapter_service.api.services import Services
from adapter_service.auth import KeyStore
from adapter_service.commands.nodes import adapter_of
from adapter_service.errors import UnknownAdapterError, UnknownJobError
from tests.api.conftest import client_of

NODES = ("kitchen", "Kitchen", "kitchen2", "hall")
SCOPES = ("admin", "app", "read", *(f"node:{node}" for node in NODES))


def caller(*scopes: str) -> Caller:
    return Caller("key-1", "test", frozenset(scopes))


@pytest.mark.parametrize(("scope", "node"), list(itertools.product(SCOPES, (*NODES, None))))
def test_of_all_pairs_of_keys_and_things_only_owners_and_the_service_see_one(scope: str, node: str | None) -> None:
    unknown = UnknownJobError("there is no job job_1")
    sees = scope in {"admin", "app", "read"} or scope == f"node:{node}"
    assert caller(scope).sees_node(node) == sees
    if sees:
        caller(scope).check_node(node, unknown)
    else:
        with pytest.raises(UnknownJobError) as raised:
            caller(scope).check_node(node, unknown)
        assert raised.value is unknown


@given(st.text(min_size=1), st.text(min_size=1))
def test_whatever_nodes_are_called_a_key_sees_its_own_alone(own: str, other: str) -> None:
    assert caller(f"node:{own}").sees_node(other) == (own == other)


def test_nobody_in_particular_sees_no_nodes_things_and_this_machine_all() -> None:
    assert not any(ANYBODY.sees_node(node) for node in (*NODES, None))
    assert all(LOOPBACK.sees_node(node) for node in (*NODES, None))
    assert LOOPBACK.node_id is None


@pytest.mark.parametrize("adapter", ["base", "multilingual", "node-hall", "node-kitchen2", "node-kitche", "", None])
def test_a_node_hears_the_same_of_others_adapters_and_of_none(adapter: str | None) -> None:
    with (
        pytest.raises(UnknownAdapterError, match="with this node's key ask for 'node-kitchen'"),
        caller("node:kitchen").asking(adapter),
    ):
        raise AssertionError("it was asked")


@pytest.mark.parametrize("adapter", ["node-kitchen", "node-kitchen@1"])
def test_a_node_asks_for_its_own_and_hears_of_no_other_when_it_is_not_there(adapter: str) -> None:
    with caller("node:kitchen").asking(adapter):
        pass
    with (
        pytest.raises(UnknownAdapterError, match="with this node's key") as raised,
        caller("node:kitchen").asking(adapter),
    ):
        raise UnknownAdapterError("unknown; known: node-hall")
    assert "node-hall" not in str(raised.value)


@pytest.mark.parametrize("scope", ["admin", "app"])
def test_the_services_keys_ask_for_any_adapter(scope: str) -> None:
    with pytest.raises(UnknownAdapterError, match="known: node-hall"), caller(scope).asking("node-kitchen"):
        raise UnknownAdapterError("unknown; known: node-hall")


@contextmanager
def node_client(services: Services) -> Iterator[TestClient]:
    """With a key as long as it is open: the service is other tests' too, who have none."""
    client, keys = client_of(services), KeyStore(services.database)
    key, client.headers["X-API-Key"] = keys.create("kitchen", {"node:kitchen"})
    try:
        yield client
    finally:
        keys.revoke(key.id)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate-lite", {"prompt": "Hi"}, "adapter"),
        ("/generate-lite", {"prompt": "Hi"}, "adapter_path"),
        ("/v1/completions", {"prompt": "Hi"}, "model"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "model"),
    ],
)
@pytest.mark.parametrize("adapter", ["base", "multilingual", adapter_of("hall"), adapter_of("kitchen")])
def test_with_a_nodes_key_no_route_tells_of_other_adapters(
    model_services: Services, path: str, body: dict[str, object], field: str, adapter: str
) -> None:
    with node_client(model_services) as client:
        answer = client.post(path, json={**body, field: adapter})
    assert answer.status_code == 404
    assert f"unknown adapter '{adapter}'; with this node's key ask for 'node-kitchen'" in answer.text


def test_a_nodes_key_is_never_answered_by_the_default_adapter(model_services: Services) -> None:
    with node_client(model_services) as client:
        assert client.post("/generate-lite", json={"prompt": "Hi"}).status_code == 404
