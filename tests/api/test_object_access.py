"""Over all keys, jobs and routes: a node's job is there for its own key and the service's, and for nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.auth import KeyStore
from tests.api.conftest import client_of

NODES = ("kitchen", "Kitchen", "kitchen2", "hall")
SCOPES = ("admin", "app", "read", *(f"node:{node}" for node in NODES))
ROUTES = (
    ("GET", "/api/v0/adapters/jobs/{}"),
    ("POST", "/api/v0/adapters/jobs/{}/acknowledge"),
    ("POST", "/api/v0/adapters/jobs/{}/cancel"),
)
COMMANDS = [
    {
        "command_name": "set_timer",
        "description": "Sets a timer.",
        "examples": [
            {"voice_command": f"set a timer for {minutes} minutes", "expected_parameters": {"minutes": minutes}}
            for minutes in range(2, 12)
        ],
        "parameters": [{"name": "minutes", "type": "int", "required": True, "description": "How long."}],
    }
]


@pytest.fixture
def clients(services: Services) -> dict[str, TestClient]:
    """One for the key of every scope, all of one application."""
    app, keys = client_of(services).app, KeyStore(services.database)
    made = {}
    for scope in SCOPES:
        headers = {"X-API-Key": keys.create(scope, {scope})[1]}
        made[scope] = TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5), headers=headers)
    return made


@pytest.fixture
def jobs(services: Services, clients: dict[str, TestClient]) -> dict[str | None, str]:
    """A job of every node, and under None one that is no node's."""
    made: dict[str | None, str] = {}
    for node in NODES:
        body = {
            "node_id": node,
            "base_model_id": services.settings.model.base,
            "command_schema": COMMANDS,
        }
        answer = clients[f"node:{node}"].post("/api/v0/adapters/train", json=body)
        assert answer.status_code == 202, answer.text
        made[node] = answer.json()["job_id"]
    made[None] = clients["app"].post("/adapter/train-lite", json={}).json()["job_id"]
    return made


def told(client: TestClient, method: str, path: str, job_id: str) -> Any:
    """The whole answer, but for the id that was asked for and what is of the one request."""
    answer = client.request(method, path.format(job_id))
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-trace-id", "content-length"}}
    told = answer.text.replace(job_id, "ID").replace(answer.headers["x-trace-id"], "TRACE")
    return answer.status_code, headers, told


@pytest.mark.parametrize("scope", SCOPES)
def test_only_owners_and_the_service_find_a_job(
    clients: dict[str, TestClient], jobs: dict[str | None, str], scope: str
) -> None:
    client = clients[scope]
    for method, path in ROUTES:
        nothing = told(client, method, path, "job_0")
        for node, job_id in jobs.items():
            answer = told(client, method, path, job_id)
            if scope == "read" and method == "POST":
                assert answer[0] == nothing[0] == 403
            elif node is not None and scope in {"admin", "app", "read", f"node:{node}"}:
                assert answer[0] in {200, 409}
            else:
                assert nothing[0] == 404
                assert answer == nothing, f"{scope} at {path} of {node}"


@pytest.mark.parametrize("node", NODES)
def test_no_nodes_job_is_found_where_nodes_keys_are_not_taken(
    clients: dict[str, TestClient], jobs: dict[str | None, str], node: str
) -> None:
    for route in ("GET /adapter/status/{}", "POST /adapter/cancel/{}", "GET /adapter/logs/{}", "GET /adapter/list"):
        method, path = route.split(" ")
        for job_id in (*jobs.values(), "job_0"):
            assert clients[f"node:{node}"].request(method, path.format(job_id)).status_code == 403


def test_a_node_posts_no_commands_for_another(services: Services, clients: dict[str, TestClient]) -> None:
    body = {"node_id": "hall", "base_model_id": services.settings.model.base, "command_schema": COMMANDS}
    assert clients["node:kitchen"].post("/api/v0/adapters/train", json=body).status_code in {403, 404}
    assert services.jobs.list() == ()


def test_a_node_asks_nothing_of_another_node(services: Services, clients: dict[str, TestClient], jobs: object) -> None:
    """There is one of that name, and none; both sound alike."""
    client = clients["node:kitchen"]
    answers = [
        client.post("/api/v0/commands/route", json={"node_id": node, "text": "set a timer"})
        for node in ("hall", "attic")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    details = [answer.json() for answer in answers]
    for detail, node in zip(details, ("hall", "attic"), strict=True):
        detail.pop("trace_id", None)
        assert node in repr(detail)
    assert repr(details[0]).replace("hall", "attic") == repr(details[1])
