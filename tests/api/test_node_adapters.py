"""From a node's commands to a signed URL of its adapter, over HTTP."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.callers import Caller
from adapter_service.api.command_routing import Sentence, read_sentence
from adapter_service.api.routes import commands
from adapter_service.api.services import Services
from adapter_service.commands.training_request import CommandTraining
from adapter_service.errors import UnknownNodeError
from adapter_service.jobs.node_jobs import Limits
from tests.api.conftest import MakeServices, client_of
from tests.api.hubs import alarm, body, hub_in, hub_services, lights, settled, started

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

PAST = "2026-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def services(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with hub_in(tmp_path_factory.mktemp("hub"), tiny_base) as services:
        yield services


@pytest.fixture
def client(services: Services) -> TestClient:
    return client_of(services)


@pytest.fixture
def node() -> str:
    """Of each test, so that none meets another's jobs."""
    return f"node{uuid4().hex[:12]}"


def test_posted_commands_become_an_adapter_that_a_signed_url_fetches(client: TestClient, node: str) -> None:
    response = client.post("/api/v0/adapters/train", json=body(node))
    accepted = response.json()
    assert (response.status_code, accepted["deduped"], accepted["adapter"]) == (202, False, f"node-{node}")
    done = settled(client, accepted["job_id"])
    assert (done["status"], done["error"], done["progress"]) == ("complete", None, 1.0)
    assert done["gate"]["metrics"]["per_command"].keys() == {"set_light", "set_alarm"}
    fetched = client.get(done["artifact_url"].replace("http://127.0.0.1:8100", ""))
    assert fetched.status_code == 200
    with zipfile.ZipFile(io.BytesIO(fetched.content)) as artifact:
        manifest = json.loads(artifact.read("manifest.json"))
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(artifact.namelist())
    assert (manifest["node_id"], manifest["dataset_hash"]) == (node, accepted["dataset_hash"])


def test_the_same_commands_again_are_answered_by_the_same_job_and_nothing_is_trained(
    client: TestClient, node: str
) -> None:
    first = client.post("/api/v0/adapters/train", json=body(node)).json()
    settled(client, first["job_id"])
    again = client.post("/api/v0/adapters/train", json=body(node))
    told = again.json()
    assert (again.status_code, told["deduped"], told["job_id"], told["status"]) == (
        200,
        True,
        first["job_id"],
        "complete",
    )
    assert first["artifact_url"] is None
    assert client.get(told["artifact_url"].replace("http://127.0.0.1:8100", "")).status_code == 200


def test_an_acknowledged_artifact_is_gone_and_published_again_without_training_when_it_is_asked_for(
    client: TestClient, services: Services, node: str
) -> None:
    job_id = client.post("/api/v0/adapters/train", json=body(node)).json()["job_id"]
    settled(client, job_id)
    acknowledged = client.post(f"/api/v0/adapters/jobs/{job_id}/acknowledge").json()
    assert (acknowledged["status"], acknowledged["artifact_url"]) == ("complete", None)
    again = client.post("/api/v0/adapters/train", json=body(node)).json()
    assert (again["job_id"], again["deduped"]) == (job_id, True)
    assert settled(client, job_id, lambda told: told["artifact_url"] is not None)["status"] == "complete"
    assert services.jobs.get(job_id).attempt == 1


def test_commands_that_come_back_are_live_again_at_once(client: TestClient, services: Services, node: str) -> None:
    first = client.post("/api/v0/adapters/train", json=body(node)).json()
    settled(client, first["job_id"])
    second = client.post("/api/v0/adapters/train", json=body(node, lights("Hall on"), alarm())).json()
    settled(client, second["job_id"])
    before = services.versions.live(f"node-{node}")
    again = client.post("/api/v0/adapters/train", json=body(node)).json()
    now = services.versions.live(f"node-{node}")
    assert (again["deduped"], again["job_id"]) == (True, first["job_id"])
    assert before is not None
    assert now is not None
    assert before.number != now.number


def test_a_replaced_or_expired_adapter_is_not_said_to_be_live_or_to_be_fetched(
    client: TestClient, services: Services, node: str
) -> None:
    first = client.post("/api/v0/adapters/train", json=body(node)).json()["job_id"]
    assert settled(client, first)["message"] == "the adapter is live here, and can be fetched at artifact_url"
    second = client.post("/api/v0/adapters/train", json=body(node, lights("Hall on"), alarm())).json()["job_id"]
    settled(client, second)
    replaced = client.get(f"/api/v0/adapters/jobs/{first}").json()
    assert "not live here any more, and can be fetched" in replaced["message"]
    with services.database.transaction() as connection:
        connection.execute("UPDATE deliveries SET expires_at = ? WHERE job_id = ?", (PAST, second))
    expired = client.get(f"/api/v0/adapters/jobs/{second}").json()
    assert (expired["status"], expired["artifact_url"]) == ("complete", None)
    assert "its time is over" in expired["message"]


def test_a_changed_node_goes_on_from_its_live_adapter(client: TestClient, services: Services, node: str) -> None:
    first = client.post("/api/v0/adapters/train", json=body(node)).json()
    settled(client, first["job_id"])
    parent = services.versions.live(f"node-{node}")
    second = client.post("/api/v0/adapters/train", json=body(node, lights("Hall on"), alarm())).json()
    settled(client, second["job_id"])
    child = services.versions.live(f"node-{node}")
    assert parent is not None
    assert child is not None
    assert child.parent_key == parent.key


def test_every_fault_of_a_body_is_told_at_once(client: TestClient) -> None:
    wrong = body("kit/chen", lights(), lights(), base_model_id="nobody's", params={"rang": 8, "epochs": 0}, prioritty=1)
    response = client.post("/api/v0/adapters/train", json=wrong)
    told = response.json()
    assert (response.status_code, told["error"]) == (400, "invalid_schema")
    assert {(fault["path"], fault["code"]) for fault in told["details"]} == {
        ("node_id", "invalid_type"),
        ("base_model_id", "unknown_base_model"),
        ("command_schema[1].command_name", "duplicate_name"),
        ("params.epochs", "out_of_range"),
        ("params.rang", "unknown_field"),
        ("prioritty", "unknown_field"),
    }


def test_every_parameter_reaches_the_training(client: TestClient, services: Services, node: str) -> None:
    params = {"rank": 3, "epochs": 2, "batch_size": 5, "max_seq_len": 2048, "learning_rate": 0.002}
    job_id = client.post("/api/v0/adapters/train", json=body(node, params=params)).json()["job_id"]
    assert settled(client, job_id)["status"] == "complete"
    result = services.jobs.get(job_id).result or {}
    training, lora = result["recipe"]["training"], result["recipe"]["lora"]
    found = (training["num_epochs"], training["per_device_train_batch_size"], training["learning_rate"])
    assert (*found, training["max_seq_length"], lora["r"], lora["alpha"]) == (2, 5, 0.002, 2048, 3, 6)
    version = services.versions.live(f"node-{node}")
    assert version is not None
    assert json.loads((version.path / "adapter_config.json").read_text())["r"] == 3


def test_another_base_alone_is_another_adapter(client: TestClient, node: str) -> None:
    first = client.post("/api/v0/adapters/train", json=body(node)).json()
    settled(client, first["job_id"])
    other = client.post("/api/v0/adapters/train", json=body(node, base_model_id="jarvis-small")).json()
    assert not other["deduped"]
    assert settled(client, other["job_id"])["base_model_id"] == "jarvis-small"


def test_a_rejected_adapter_has_failed_and_nothing_is_published(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    with started(hub_services(make_services, tiny_base, min_tool_accuracy=1.0)) as services:
        client = client_of(services)
        job_id = client.post("/api/v0/adapters/train", json=body()).json()["job_id"]
        failed = settled(client, job_id)
        assert (failed["status"], failed["error"]["code"], failed["artifact_url"]) == ("failed", "gate_rejected", None)
        assert failed["gate"]["metrics"]["sentences"] > 0
        assert services.versions.live("node-kitchen") is None
        assert services.hub.deliveries.get(job_id) is None


def test_a_job_of_no_node_is_none_here(client: TestClient, services: Services) -> None:
    job = services.jobs.create({}, adapter="toy", trace_id="t", queue_limit=9)
    response = client.get(f"/api/v0/adapters/jobs/{job.id}")
    assert (response.status_code, response.json()["error"]) == (404, "unknown_job")


def test_the_vocabulary_of_dates_is_told(client: TestClient) -> None:
    told = client.get("/api/v0/adapters/date-keys").json()
    assert (told["version"], len(told["static_keys"]), len(told["dynamic_patterns"])) == ("2.0", 64, 3)


def test_a_sentence_is_routed_by_the_base_until_an_adapter_is_live(client: TestClient, node: str) -> None:
    unknown = client.post("/api/v0/commands/route", json={"node_id": node, "text": "Hall light on"})
    assert (unknown.status_code, unknown.json()["error"]) == (404, "unknown_node")
    job_id = client.post("/api/v0/adapters/train", json=body(node)).json()["job_id"]
    by_base = client.post("/api/v0/commands/route", json={"node_id": node, "text": "Hall light on"}).json()
    settled(client, job_id)
    sentence = {"node_id": node, "text": "Wake me", "context": {"rooms": ["hall"], "time_zone": "Asia/Tokyo"}}
    routed = client.post("/api/v0/commands/route", json=sentence).json()
    assert (by_base["answered_by"], by_base["by_base"]) == ("base", True)
    assert (routed["answered_by"], routed["by_base"]) == (f"node-{node}@1", False)
    assert routed["message"] or routed["tool_calls"] or routed["error"]


def test_the_trace_id_of_a_body_is_echoed_and_one_that_no_header_may_have_is_refused(
    client: TestClient, node: str
) -> None:
    refused = client.post("/api/v0/adapters/train", json=body(node, trace_id="a\r\nSet-Cookie: b"))
    assert (refused.status_code, refused.json()["details"][0]["path"]) == (400, "trace_id")
    taken = client.post("/api/v0/adapters/train", json=body(node, trace_id="mine"))
    assert (taken.headers["X-Trace-Id"], taken.json()["trace_id"]) == ("mine", "mine")


@pytest.mark.parametrize("path", ["/api/v0/adapters/train", "/api/v0/commands/route", "/llm-proxy/jobs/queue"])
@pytest.mark.parametrize(
    "half", ['{"node_id": "\\ud800"}', '{"\\ud800": 1}', '{"text": "\\ud800"}', '{"job_id": "\\udfff", "x": 1}']
)
def test_half_a_character_is_a_fault_that_is_told(client: TestClient, path: str, half: str) -> None:
    response = client.post(path, content=half, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert "half a character" in response.text


@pytest.mark.parametrize("path", ["/api/v0/adapters/train", "/api/v0/commands/route", "/llm-proxy/jobs/queue"])
def test_thousands_of_faults_are_not_all_told(client: TestClient, path: str) -> None:
    response = client.post(path, json={f"field_{number}": number for number in range(20_000)})
    assert (response.status_code, "not looked at" in response.text) == (400, True)
    assert len(response.content) < 100_000


def test_commands_that_contradict_each_other_in_every_example_are_refused(client: TestClient, node: str) -> None:
    other = lights() | {"command_name": "set_lamp"}
    response = client.post("/api/v0/adapters/train", json=body(node, lights(), other))
    assert response.status_code == 400
    assert [(one["path"], one["code"]) for one in response.json()["details"]] == [
        ("command_schema", "too_few_examples")
    ]


def test_a_node_whose_commands_teach_nothing_is_unknown(services: Services, node: str) -> None:
    other = lights() | {"command_name": "set_lamp"}
    training = CommandTraining(node, "jarvis-tiny", [lights(), other], "0" * 64, "UTC")
    limits = Limits(1000, 1000)
    services.hub.jobs.submit(training, uuid4().hex, trace_id="t", limits=limits, bring=services.hub.delivering.bring)
    with pytest.raises(UnknownNodeError, match="post them anew"):
        services.hub.routers.of(node, None)


def test_a_sentence_is_read_beside_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def read(body: Any, services: Services, caller: Caller) -> Sentence:
        seen.append(threading.current_thread().name)
        return read_sentence(body, services, caller)

    monkeypatch.setattr(commands, "read_sentence", read)
    client.post("/api/v0/commands/route", json={"node_id": "nobody", "text": "Hall light on"})
    assert seen == ["AnyIO worker thread"]
