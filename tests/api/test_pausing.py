"""Pausing and resuming over HTTP, idempotency keys under pressure, and rows that cannot be read."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.errors import JobCancelledError
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job, JobStatus
from tests.api.conftest import MakeServices, QuickPipeline, client_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


def submitted(client: TestClient, key: str | None = None, **body: Any) -> str:
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.post("/adapter/train-lite", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


def test_a_waiting_job_is_held_back_and_let_go_as_often_as_asked(client: TestClient) -> None:
    held, other = submitted(client), submitted(client, adapter="other")
    for _ in range(2):
        answer = client.post(f"/adapter/pause/{held}").json()
        assert (answer["status"], answer["pause_requested"]) == ("paused", False)
    assert f"POST /adapter/resume/{held}" in answer["message"]
    assert "waiting at place 1" in client.get(f"/adapter/status/{other}").json()["message"]
    for _ in range(2):
        answer = client.post(f"/adapter/resume/{held}").json()
        assert (answer["status"], answer["message"].split(";")[0]) == ("queued", "waiting at place 1")


@pytest.mark.parametrize("move", ["pause", "resume"])
def test_what_is_over_or_unknown_is_neither_paused_nor_resumed(client: TestClient, move: str) -> None:
    job_id = submitted(client)
    client.post(f"/adapter/cancel/{job_id}")
    over = client.post(f"/adapter/{move}/{job_id}")
    assert (over.status_code, over.json()["code"]) == (409, "wrong_job_state")
    unknown = client.post(f"/adapter/{move}/job_0")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_job")


def test_paused_jobs_hold_their_places_in_a_full_queue(make_services: MakeServices) -> None:
    client = client_of(make_services(serving={"job_queue_size": 1}))
    client.post(f"/adapter/pause/{submitted(client)}")
    refused = client.post("/adapter/train-lite", json={"adapter": "other"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")


class StopsWhenAsked(QuickPipeline):
    """A job that runs until it is asked to stop, in its first attempt; tells when it has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.stopped = threading.Event()
        self.forgotten: list[str] = []

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        self.begun.set()
        while job.attempt == 1 and not context.cancelled():
            assert not context.stopping()
        if job.attempt == 1:
            raise JobCancelledError("asked")
        return {"attempt": job.attempt}

    def forget(self, job_id: str) -> None:
        self.forgotten.append(job_id)
        self.stopped.set()


def test_a_running_job_pauses_lets_the_next_one_run_and_goes_on_when_resumed(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    pipeline = StopsWhenAsked()
    services = make_services(lambda *_: pipeline, load_base=lambda note: tiny_base)
    with client_of(services) as client:
        job_id = submitted(client)
        assert pipeline.begun.wait(20)
        asked = client.post(f"/adapter/pause/{job_id}").json()
        assert (asked["status"] == "paused") or asked["pause_requested"]
        reached(services, job_id, JobStatus.PAUSED)
        assert pipeline.forgotten == []
        client.post(f"/adapter/resume/{job_id}")
        reached(services, job_id, JobStatus.SUCCEEDED)
        assert pipeline.stopped.wait(20)
    assert pipeline.forgotten == [job_id]


def reached(services: Services, job_id: str, status: JobStatus) -> None:
    """Wait until the runner has brought the job there."""
    eventually(lambda: services.jobs.get(job_id).status is status, f"{job_id} {status}")


def test_a_paused_job_that_is_cancelled_leaves_no_files(make_services: MakeServices) -> None:
    pipeline = StopsWhenAsked()
    client = client_of(make_services(lambda *_: pipeline))
    job_id = submitted(client)
    client.post(f"/adapter/pause/{job_id}")
    assert client.post(f"/adapter/cancel/{job_id}").json()["status"] == "cancelled"
    assert pipeline.forgotten == [job_id]


def test_many_requests_with_one_key_at_once_are_one_job(client: TestClient, services: Services) -> None:
    together = threading.Barrier(8)

    def train(number: int) -> tuple[int, str]:
        together.wait(20)
        # Half of them want something else: they are told so, whoever came first.
        answer = client.post("/adapter/train-lite", json={"seed": number % 2}, headers={"Idempotency-Key": "k"})
        return answer.status_code, answer.json().get("job_id") or answer.json()["code"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(train, range(8)))
    (job,) = services.jobs.list()
    assert answers == {(202, job.id), (409, "duplicate_request")}


def test_a_key_means_the_same_job_after_a_restart_and_when_the_queue_is_full(make_services: MakeServices) -> None:
    before = make_services(serving={"job_queue_size": 1})
    job_id = submitted(client_of(before), key="k", seed=1)
    before.database.close()
    client = client_of(make_services(serving={"job_queue_size": 1}))
    assert submitted(client, key="k", seed=1) == job_id
    other = client.post("/adapter/train-lite", json={"seed": 2}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (409, "duplicate_request")
    full = client.post("/adapter/train-lite", json={"seed": 2}, headers={"Idempotency-Key": "new"})
    assert (full.status_code, full.json()["code"]) == (429, "busy")


def test_what_was_accepted_is_not_refused_because_its_source_is_gone_since(make_services: MakeServices) -> None:
    before = make_services()
    job_id = submitted(client_of(before), key="k", source="other")
    without = {name: entry for name, entry in before.settings.sources.items() if name != "other"}
    client = client_of(make_services(sources=without))
    assert submitted(client, key="k", source="other") == job_id
    assert client.post("/adapter/train-lite", json={"source": "other"}).json()["code"] == "unknown_source"


@pytest.mark.parametrize("damage", ["request = 'x'", "request = '[]'", "started_at = 'noon'", "progress = '{'"])
def test_a_job_that_cannot_be_read_says_so_and_the_others_go_on(
    client: TestClient, services: Services, damage: str
) -> None:
    bad, good = submitted(client, key="bad"), submitted(client, adapter="other")
    with services.database.transaction() as connection:
        connection.execute(f"UPDATE jobs SET {damage} WHERE id = ?", (bad,))  # noqa: S608 - of this test alone
    for method, path in [
        ("GET", f"/adapter/status/{bad}"),
        ("GET", f"/adapter/logs/{bad}"),
        ("GET", f"/adapter/logs/{bad}/tail"),
        ("POST", f"/adapter/cancel/{bad}"),
        ("POST", f"/adapter/pause/{bad}"),
        ("POST", f"/adapter/resume/{bad}"),
    ]:
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (409, "damaged_job"), path
        assert f"what the state database has of {bad} cannot be read" in answer.json()["detail"]
    repeated = client.post("/adapter/train-lite", json={}, headers={"Idempotency-Key": "bad"})
    assert repeated.json()["code"] == "damaged_job"
    assert client.get("/health").status_code == 200
    assert client.get(f"/adapter/status/{good}").json()["status"] == "queued"
    started = services.jobs.claim_next()
    assert started is not None
    assert started.id == good
