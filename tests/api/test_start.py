"""Starting and stopping: light imports, answers before there is a base, an orderly end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.database import Database
from adapter_service.errors import BaseModelError, JobCancelledError, NotReadyError, StorageError
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job, JobStatus
from adapter_service.jobs.store import JobStore
from tests.api.conftest import MakeServices, QuickPipeline, client_of
from tests.conftest import ROOT, SMALL_BASE
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

# Longer than anything takes here; who waits so long waits for ever.
WAIT_SECONDS = 60
HEAVY = {"torch", "transformers", "peft", "datasets", "boto3", "numpy"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a service with a state folder of its own, into which the base has to be imported first."""
    return {
        **os.environ,
        "ADAPTER_STATE_DIR": str(tmp_path / "state"),
        "ADAPTER_MODEL__BASE": SMALL_BASE,
        "ADAPTER_SERVING__DRAIN_SECONDS": "0",
    }


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The real server as a process, and where it listens."""
    command = [sys.executable, "-m", "uvicorn", "adapter_service.api:app", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stderr)))
        yield process, found[0]
        process.kill()


def test_the_application_loads_nothing_heavy(environment: dict[str, str]) -> None:
    program = (
        "import json, sys; from adapter_service.api import app; "
        "print(json.dumps([type(app).__name__, *{m.split('.')[0] for m in sys.modules}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    kind, *loaded = json.loads(done.stdout)
    assert kind == "FastAPI"
    assert HEAVY.isdisjoint(loaded)


def test_the_first_answers_come_while_the_base_loads(environment: dict[str, str]) -> None:
    with serving(environment) as (_, address):
        health = requests.get(f"{address}/health", timeout=WAIT_SECONDS)
        assert (health.status_code, health.json()["status"]) == (200, "loading")
        assert requests.get(f"{address}/ready", timeout=WAIT_SECONDS).status_code == 503


def test_the_server_ends_when_it_is_asked_to_while_the_base_loads(environment: dict[str, str]) -> None:
    with serving(environment) as (process, address):
        assert requests.get(f"{address}/health", timeout=WAIT_SECONDS).ok
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) in {0, -signal.SIGTERM}  # uvicorn raises the signal again at its end


def test_a_client_that_does_not_go_on_does_not_hold_up_the_end_of_the_server(environment: dict[str, str]) -> None:
    with serving(environment) as (process, address), half_a_request(address):
        assert requests.get(f"{address}/health", timeout=WAIT_SECONDS).ok
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) in {0, -signal.SIGTERM}


@contextmanager
def half_a_request(address: str) -> Iterator[None]:
    url = urlsplit(address)
    head = f"POST /tokenize HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection((url.hostname, url.port)) as client:
        client.sendall(head.encode() + b"{")
        yield


class RunsUntilStopped(QuickPipeline):
    """A job that ends when the service does, and tells when it has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        self.begun.set()
        while not context.stopping():
            pass
        raise JobCancelledError("the service stops")


@contextmanager
def running_job(make_services: MakeServices, base: BaseModel) -> Iterator[tuple[Services, TestClient, str]]:
    """A service, its client, and the id of a job that has begun there; at the end the service is stopped."""
    pipeline = RunsUntilStopped()
    services = make_services(lambda *_: pipeline, load_base=lambda note: base)
    with client_of(services) as client:
        job_id = client.post("/adapter/train-lite", json={}).json()["job_id"]
        assert pipeline.begun.wait(WAIT_SECONDS)
        yield services, client, job_id


def kept_status(services: Services, job_id: str) -> JobStatus:
    """What the next start will find."""
    database = Database(services.settings.storage.state_dir / "service.db")
    status = JobStore(database).get(job_id).status
    database.close()
    return status


def test_a_running_job_goes_back_to_the_queue_when_the_service_stops(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    with running_job(make_services, tiny_base) as (services, client, job_id):
        assert client.get("/health").json()["runner"] == {"alive": True}
    assert (services.engine.state, services.runner.alive) == ("stopped", False)
    assert kept_status(services, job_id) is JobStatus.QUEUED


def test_a_second_service_on_the_same_state_folder_says_so_and_leaves_the_running_job_alone(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    with running_job(make_services, tiny_base) as (services, _, job_id):
        with pytest.raises(StorageError, match="another process runs the jobs of the state folder"):
            make_services().start()
        running = services.jobs.get(job_id)
        assert (running.status, running.attempt, running.crashes) == (JobStatus.RUNNING, 1, 0)
    assert kept_status(services, job_id) is JobStatus.QUEUED


def test_while_the_base_loads_a_job_waits_and_can_be_cancelled(make_services: MakeServices) -> None:
    with client_of(make_services()) as client:
        job = client.post("/adapter/train-lite", json={}).json()
        answer = client.get(f"/adapter/status/{job['job_id']}").json()
        assert (answer["status"], answer["attempt"]) == ("queued", 0)
        assert "it begins when the base is loaded" in answer["message"]
        assert client.post(f"/adapter/cancel/{job['job_id']}").json()["status"] == "cancelled"


def test_with_a_base_that_cannot_be_loaded_jobs_wait_and_everyone_is_told_why(
    make_services: MakeServices, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(note: Callable[[str], None]) -> BaseModel:
        note("reading the weights")
        raise BaseModelError("no such base")

    services = make_services(load_base=fail)
    with client_of(services) as client:
        with pytest.raises(NotReadyError):
            services.engine.wait_until_ready(READY_SECONDS)
        job_id = client.post("/adapter/train-lite", json={}).json()["job_id"]
        assert "the base could not be loaded: no such base" in client.get(f"/adapter/status/{job_id}").json()["message"]
        assert client.get("/health").json()["engine"]["note"] == "no such base"
        assert "no such base" in client.get("/ready").json()["detail"]
    assert kept_status(services, job_id) is JobStatus.QUEUED
