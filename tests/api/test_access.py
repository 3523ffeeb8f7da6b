"""Every route says which scope it asks for, and asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

from adapter_service.api import create_app
from adapter_service.api.access import ACCESS, EVERYBODY, access_to
from adapter_service.api.services import Services
from adapter_service.auth import KeyStore
from tests.api.conftest import client_of

SERVICE_SCOPES = ("admin", "app", "read")
RANK = {"read": 0, "app": 1, "admin": 2}


def routes(services: Services) -> Iterator[str]:
    for context in iter_route_contexts(create_app(services=services).routes):
        assert isinstance(context.original_route, APIRoute), f"{context.path} asks nobody for a key"
        yield from (f"{method} {context.path_format}" for method in context.methods or ())


def client_with(services: Services, scope: str) -> TestClient:
    client = client_of(services)
    client.headers["Authorization"] = f"Bearer {KeyStore(services.database).create(scope, {scope})[1]}"
    return client


def is_refused(client: TestClient, route: str) -> bool:
    """Whether it is for the key's scope that the route says no; to what was asked, it may say what it likes."""
    method, path = route.split(" ")
    answer = client.request(method.replace("HEAD", "GET"), path.replace("{", "").replace("}", ""))
    return answer.status_code in {401, 403} and "bad_link" not in answer.text


def test_every_route_is_in_the_table_and_nothing_else_is(services: Services) -> None:
    there = set(routes(services))
    assert there <= set(ACCESS)
    assert set(ACCESS) - there == set()


def test_a_route_that_nobody_put_into_the_table_is_for_admins() -> None:
    assert access_to("POST", "/new").needed == "admin"
    assert access_to("HEAD", "/health").needed == "admin"


def test_reading_changes_nothing_and_changing_is_no_reading() -> None:
    for route, access in ACCESS.items():
        reads = route.startswith(("GET ", "HEAD "))
        assert access.needed in ({"read", None} if reads else {"app", "admin"}), route


@pytest.mark.parametrize("scope", SERVICE_SCOPES)
def test_a_key_is_let_in_where_its_scope_allows_and_nowhere_else(services: Services, scope: str) -> None:
    client = client_with(services, scope)
    for route in routes(services):
        needed = access_to(*route.split(" ")).needed
        assert is_refused(client, route) == (needed is not None and RANK[needed] > RANK[scope]), route


def test_a_nodes_key_is_let_in_to_what_takes_it_and_nowhere_else(services: Services) -> None:
    client = client_with(services, "node:kitchen")
    for route in routes(services):
        access = access_to(*route.split(" "))
        assert is_refused(client, route) == (access is not EVERYBODY and not access.nodes), route


def test_who_is_refused_hears_what_is_needed(services: Services) -> None:
    problem = client_with(services, "read").post("/adapter/train-lite", json={}).json()
    assert (problem["status"], problem["code"]) == (403, "forbidden")
    assert "has the scope read" in problem["detail"]
    assert "needs app" in problem["detail"]
    assert "keys create NAME --scope app" in problem["detail"]


def test_openai_clients_hear_it_in_their_words(services: Services) -> None:
    answer = client_with(services, "read").post("/v1/completions", json={"model": "base", "prompt": "Hi"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")


def test_a_route_that_does_not_exist_is_told_apart_only_with_a_key(services: Services) -> None:
    client = client_with(services, "read")
    assert client.get("/nothing").status_code == 404
    assert client_of(services).get("/nothing").status_code == 401


def test_what_every_operation_asks_for_is_in_the_document(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["header"]["name"] == "X-API-Key"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needed = access_to(method.upper(), path).needed
            wanted = [{}] if needed is None else [{}, {"bearer": [needed]}, {"header": [needed]}]
            assert operation["security"] == wanted, path
            assert ("403" in operation["responses"]) >= (needed is not None), path


def test_a_forgotten_route_is_found(services: Services) -> None:
    router = APIRouter()
    router.add_api_route("/forgotten", lambda: None)
    app = create_app(services=services)
    app.include_router(router)
    there = {
        f"{method} {context.path_format}"
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    }
    assert there - set(ACCESS) == {"GET /forgotten"}
