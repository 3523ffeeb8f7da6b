"""Following a job, cancelling it, reading its log; adapters, versions and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from adapter_service.adapters import Version
from adapter_service.api.services import Services
from adapter_service.jobs.job import Job, Phase


@pytest.fixture
def job(services: Services) -> Job:
    return services.jobs.create({"adapter": "hindi", "source": "small"}, adapter="hindi", trace_id="t-1", queue_limit=9)


def test_a_waiting_job_says_its_place(client: TestClient, job: Job) -> None:
    answer = client.get(f"/adapter/status/{job.id}").json()
    assert (answer["status"], answer["message"].split(";")[0]) == ("queued", "waiting at place 1")
    assert (answer["progress"], answer["source"], answer["trace_id"]) == (0.0, "small", "t-1")


def test_a_running_job_says_how_far_it_is(client: TestClient, services: Services, job: Job) -> None:
    running = services.jobs.claim_next()
    assert running is not None
    # The resolved settings have folders of this machine in them.
    metrics = {
        "loss": 2.5,
        "samples": {"read": 8, "used": 7, "skipped": 1},
        "unforeseen": 1,
    }
    services.jobs.progress(running, phase=Phase.TRAINING, step=3, total_steps=4, metrics=metrics)
    answer = client.get(f"/adapter/status/{job.id}").json()
    assert (answer["phase"], answer["progress"], answer["loss"]) == ("training", 0.75, 2.5)
    assert answer["samples"]["used"] == 7
    assert answer["details"] == {"unforeseen": 1}
    assert client.get("/health").json()["active_job"] == job.id


def test_a_job_that_failed_says_why_and_with_which_code(client: TestClient, services: Services, job: Job) -> None:
    running = services.jobs.claim_next()
    assert running is not None
    services.jobs.fail(running, "empty_source", "source 'small' has no records")
    answer = client.get(f"/adapter/status/{job.id}").json()
    assert answer["error"] == {"code": "empty_source", "message": "source 'small' has no records"}
    assert answer["finished_at"]


def test_a_job_whose_gate_said_no_succeeded_and_says_so(client: TestClient, services: Services, job: Job) -> None:
    running = services.jobs.claim_next()
    assert running is not None
    gate = {"accepted": False, "reasons": ["no gain"]}
    services.jobs.succeed(running, {"gate": gate, "version": 2})
    answer = client.get(f"/adapter/status/{job.id}").json()
    assert (answer["status"], answer["gate"], answer["version"]) == ("succeeded", gate, 2)
    assert "no gain" in answer["message"]
    assert answer["progress"] == 1.0


def test_a_waiting_job_is_cancelled_at_once_and_only_once(client: TestClient, job: Job) -> None:
    assert client.post(f"/adapter/cancel/{job.id}").json()["status"] == "cancelled"
    again = client.post(f"/adapter/cancel/{job.id}")
    assert (again.status_code, again.json()["code"]) == (409, "wrong_job_state")


def test_a_log_is_read_in_pages_and_from_its_end(client: TestClient, services: Services, job: Job) -> None:
    services.logs.append(job.id, "one\ntwo\nthree")
    page = client.get(f"/adapter/logs/{job.id}", params={"start": 1, "limit": 1}).json()
    assert (page["start"], page["end"], page["total"]) == (1, 2, 3)
    assert page["lines"][0].endswith("two")
    tail = client.get(f"/adapter/logs/{job.id}/tail", params={"n": 2}).json()
    assert [line.split()[-1] for line in tail["lines"]] == ["two", "three"]
    assert client.get(f"/adapter/logs/{job.id}/tail").json()["total"] == 3


def test_a_misspelt_query_parameter_is_refused(client: TestClient, job: Job) -> None:
    problem = client.get(f"/adapter/logs/{job.id}", params={"limt": 5}).json()
    assert (problem["status"], problem["parameter"]) == (422, "limt")
    assert "did you mean 'limit'?" in problem["detail"]


def test_the_log_of_an_unknown_job_is_404(client: TestClient) -> None:
    assert client.get("/adapter/logs/..%2f..%2fetc").status_code == 404
    assert client.get("/adapter/logs/job_0/tail").json()["code"] == "unknown_job"


def published(services: Services, folder: Path, name: str, key: str) -> Version:
    work = folder / key
    work.mkdir()
    (work / "adapter_config.json").write_text("{}")
    (work / "adapter_model.safetensors").write_bytes(b"")
    return services.versions.publish(name, work, key=key * 16, job_id=None, base_id="b")


def test_adapters_are_listed_with_their_versions(client: TestClient, services: Services, tmp_path: Path) -> None:
    services.versions.go_live(published(services, tmp_path, "hindi", "a"))
    services.versions.reject(published(services, tmp_path, "hindi", "b"), ["worse"])
    answer = client.get("/adapter/list").json()
    (hindi,) = answer["adapters"]
    assert (hindi["name"], hindi["live_version"]) == ("hindi", 1)
    assert [version["status"] for version in hindi["versions"]] == ["rejected", "live"]
    assert answer["base"] == "package:smollm2-135m"
    assert str(tmp_path) not in client.get("/adapter/list").text


def test_a_rollback_brings_the_version_before(client: TestClient, services: Services, tmp_path: Path) -> None:
    for key in "ab":
        services.versions.go_live(published(services, tmp_path, "hindi", key))
    assert client.post("/adapter/hindi/rollback").json()["live_version"] == 1
    again = client.post("/adapter/hindi/rollback")
    assert (again.status_code, again.json()["code"]) == (409, "no_version_to_roll_back")


def test_a_name_that_is_close_is_suggested(client: TestClient, services: Services, tmp_path: Path) -> None:
    services.versions.go_live(published(services, tmp_path, "hindi", "a"))
    problem = client.post("/generate-lite", json={"prompt": "x", "adapter": "hndi"}).json()
    assert (problem["status"], problem["code"]) == (404, "unknown_adapter")
    assert "did you mean 'hindi'?" in problem["detail"]
