"""The queue of hubs that assemble their datasets themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from tests.api.conftest import MakeServices, client_of
from tests.api.hubs import hub_services, settled, started

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


def example(text: str, name: str = "set_timer", **arguments: Any) -> dict[str, Any]:
    return {"voice_command": text, "expected_tool_call": {"name": name, "arguments": arguments}}


def envelope(*examples: dict[str, Any], **fields: Any) -> dict[str, Any]:
    chosen = list(examples) or [example(f"Timer of {n} minutes", minutes=n) for n in range(1, 6)]
    return {
        "job_id": "hub-1",
        "job_type": "adapter_train",
        "job_type_version": "v1",
        "created_at": datetime.now(UTC).isoformat(),
        "priority": "normal",
        "idempotency_key": "once",
        "ttl_seconds": 3600,
        "request": {
            "node_id": "kitchen",
            "base_model_id": "jarvis-tiny",
            "dataset_ref": {
                "format": "inline-json",
                "data": {"commands": [{"command_name": "set_timer", "examples": chosen}]},
            },
        },
        **fields,
    }


@pytest.fixture
def services(make_services: MakeServices, tiny_base: BaseModel) -> Services:
    return hub_services(make_services, tiny_base, callback_urls=["http://127.0.0.1:7703/"])


@pytest.fixture
def client(services: Services) -> TestClient:
    return client_of(services)


def queue(client: TestClient, body: dict[str, Any]) -> Any:
    return client.post("/llm-proxy/jobs/queue", json=body)


def test_a_queued_dataset_is_a_job_by_the_hubs_own_id(client: TestClient, services: Services) -> None:
    response = queue(client, envelope())
    assert (response.status_code, response.json()) == (202, {"accepted": True, "job_id": "hub-1", "deduped": False})
    told = client.get("/api/v0/adapters/jobs/hub-1").json()
    assert (told["status"], told["node_id"]) == ("queued", "kitchen")
    (parameter,) = services.jobs.get(told["job_id"]).request["commands"][0]["parameters"]
    assert parameter == {"name": "minutes", "type": "int", "required": True}


def test_the_same_envelope_makes_no_second_job_and_another_under_its_key_is_refused(client: TestClient) -> None:
    queue(client, envelope())
    assert queue(client, envelope()).json()["deduped"]
    assert queue(client, envelope(job_id="hub-2")).json()["deduped"]
    other = queue(client, envelope(*[example(f"Stop {n}", minutes=n) for n in range(5)]))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "duplicate_request")


def test_it_is_cancelled_by_the_hubs_id(client: TestClient) -> None:
    queue(client, envelope())
    assert client.post("/llm-proxy/jobs/hub-1/cancel").json() == {"job_id": "hub-1", "status": "canceled"}


def formatted(count: int, padding: str = "") -> list[dict[str, Any]]:
    return [
        {
            **example(f"Timer {n}", minutes=n),
            "formatted_system_prompt": "You call functions.",
            "formatted_prompt": f"User: Timer {n}{padding}",
            "formatted_completion": f'{{"message": "", "tool_calls": [{{"name": "set_timer", "arguments": '
            f'{{"minutes": {n}}}}}], "error": null}}',
        }
        for n in range(count)
    ]


def test_a_hubs_own_prompts_are_learned_as_they_are_and_ours_are_not_asked(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    with started(hub_services(make_services, tiny_base)) as services:
        client = client_of(services)
        queue(client, envelope(*formatted(8)))
        waiting = client.post("/api/v0/commands/route", json={"node_id": "kitchen", "text": "Timer 3"})
        done = settled(client, "hub-1")
        assert (done["status"], done["error"]) == ("complete", None)
        assert done["gate"]["metrics"]["sentences"] + services.jobs.get(done["job_id"]).progress["samples"]["used"] == 8
        refused = client.post("/api/v0/commands/route", json={"node_id": "kitchen", "text": "Timer 3"})
        assert (waiting.status_code, refused.status_code, refused.json()["error"]) == (409, 409, "conflict")
        assert "POST /v1/chat/completions, model 'node-kitchen'" in refused.json()["details"][0]["message"]
        version = services.versions.live("node-kitchen")
        assert version is not None
        assert services.hub.routers.of_version(version) is None
        tool = {"type": "function", "function": {"name": "set_timer", "parameters": {"type": "object"}}}
        asked = {"messages": [{"role": "user", "content": "User: Timer 3"}], "tools": [tool], "max_tokens": 4}
        plain, ours = (
            client.post("/v1/chat/completions", json={"model": model, **asked}).json()["usage"]["prompt_tokens"]
            for model in ("base", "node-kitchen")
        )
        assert plain == ours


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"job_type": "other"}, "invalid_request", "job_type"),
        ({"priority": "urgent"}, "invalid_request", "priority"),
        ({"surprise": 1}, "invalid_request", "surprise"),
        ({"request": None}, "missing_schema", "request"),
        ({"request": {"node_id": "kitchen", "base_model_id": "jarvis-tiny"}}, "missing_schema", "request.dataset_ref"),
    ],
)
def test_what_is_wrong_with_an_envelope_is_told_in_the_hubs_words(
    client: TestClient, change: dict[str, Any], code: str, path: str
) -> None:
    response = queue(client, envelope(**change))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, code)
    assert path in {fault["path"] for fault in error["details"]}


def test_every_fault_of_a_dataset_is_told_where_the_hub_wrote_it(client: TestClient) -> None:
    mixed = [example("one", minutes=1), example("two", minutes="two"), example("three", name="other", minutes=3)]
    error = queue(client, envelope(*mixed)).json()["error"]
    commands = "request.dataset_ref.data.commands[0]"
    assert error["code"] == "invalid_adapter_request"
    assert {(fault["path"], fault["code"]) for fault in error["details"]} == {(f"{commands}.examples", "not_in_enum")}
    error = queue(client, envelope(*mixed[:2])).json()["error"]
    assert {(fault["path"], fault["code"]) for fault in error["details"]} == {(f"{commands}.examples", "invalid_type")}


def test_what_was_to_live_until_before_now_is_expired(client: TestClient) -> None:
    old = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    error = queue(client, envelope(created_at=old)).json()["error"]
    assert error["code"] == "expired"


def test_a_callback_needs_an_allowed_address_and_something_to_sign_with(client: TestClient) -> None:
    stranger = queue(client, envelope(callback={"url": "http://10.0.0.9/x", "token": "t"}))
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (403, "forbidden")
    unsigned = queue(client, envelope(callback={"url": "http://127.0.0.1:7703/done"}))
    assert unsigned.json()["error"]["details"][0]["path"] == "callback.token"
    assert queue(client, envelope(callback={"url": "http://127.0.0.1:7703/done", "token": "t"})).status_code == 202


def test_a_secret_of_a_callback_is_in_no_answer(client: TestClient) -> None:
    queue(client, envelope(callback={"url": "http://127.0.0.1:7703/done", "token": "sesame"}))
    job_id = client.get("/api/v0/adapters/jobs/hub-1").json()["job_id"]
    for path in ("/api/v0/adapters/jobs/hub-1", f"/adapter/status/{job_id}", "/v1/fine_tuning/jobs"):
        assert "sesame" not in client.get(path).text


def test_a_dataset_may_be_larger_than_other_bodies_and_has_a_limit_of_its_own(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    client = client_of(hub_services(make_services, tiny_base, max_dataset_bytes=2**21))
    large = envelope(*formatted(40, " " * 19_000 + "."))
    large["request"]["dataset_ref"]["data"]["commands"] *= 2
    large["request"]["dataset_ref"]["data"]["commands"][1] = {
        "command_name": "set_alarm",
        "examples": [
            {**one, "voice_command": f"Alarm {n}", "expected_tool_call": {"name": "set_alarm", "arguments": {}}}
            for n, one in enumerate(formatted(40, " " * 19_000 + "!"))
        ],
    }
    assert queue(client, large).status_code == 202
    refused = client.post("/llm-proxy/jobs/queue", content=b" " * (2**21 + 1))
    assert (refused.status_code, "commands.max_dataset_bytes" in refused.text) == (413, True)


def test_a_trace_id_that_no_header_may_have_is_refused(client: TestClient) -> None:
    response = queue(client, envelope(trace_id="a\r\nSet-Cookie: b"))
    assert response.status_code == 400
    assert [fault["path"] for fault in response.json()["error"]["details"]] == ["trace_id"]
    assert "Set-Cookie" not in response.headers
    assert queue(client, envelope(trace_id="mine")).headers["X-Trace-Id"] == "mine"
