"""Starting and stopping: light imports, /health at once, an orderly end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from adapter_service.database import Database
from adapter_service.engine.engine import Engine
from adapter_service.errors import JobCancelledError, NotReadyError
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job, JobStatus
from adapter_service.jobs.store import JobStore
from tests.api.conftest import MakeServices, QuickPipeline, client_of
from tests.conftest import ROOT, SMALL_BASE

HEAVY = {"torch", "transformers", "peft", "datasets", "boto3", "numpy"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a service with a state folder of its own, into which the base has to be imported first."""
    return {**os.environ, "ADAPTER_STATE_DIR": str(tmp_path / "state"), "ADAPTER_MODEL__BASE": SMALL_BASE}


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The real server as a process, and where it listens."""
    command = [sys.executable, "-m", "uvicorn", "adapter_service.api:app", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stderr)))
        yield process, found[0]
        process.kill()


def seconds_until_health(environment: dict[str, str]) -> float:
    """From the start of the process to its first answer, given while the base loads."""
    started = time.monotonic()
    with serving(environment) as (_, address):
        health = requests.get(f"{address}/health", timeout=10)
        seconds = time.monotonic() - started
        assert (health.status_code, health.json()["status"]) == (200, "loading")
        assert requests.get(f"{address}/ready", timeout=10).status_code == 503
    return seconds


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


def test_health_is_answered_within_two_seconds_of_the_start(environment: dict[str, str]) -> None:
    # Other work on the machine may slow one start down, hardly three.
    assert any(seconds_until_health(environment) < 2.0 for _ in range(3))


def test_the_server_ends_when_it_is_asked_to_while_the_base_loads(environment: dict[str, str]) -> None:
    with serving(environment) as (process, address):
        assert requests.get(f"{address}/health", timeout=10).ok
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in {0, -signal.SIGTERM}  # uvicorn raises the signal again at its end


class NeedsTheBase(QuickPipeline):
    """A job that waits for its base, and tells when it has begun."""

    def __init__(self, engine: Engine) -> None:
        self.begun = threading.Event()
        self._engine = engine

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        self.begun.set()
        try:
            self._engine.wait_until_ready()
        except NotReadyError as error:
            raise JobCancelledError("the service stops") from error
        return {}


def test_a_running_job_goes_back_to_the_queue_when_the_service_stops(make_services: MakeServices) -> None:
    services = make_services(lambda settings, engine, *_: NeedsTheBase(engine))
    assert isinstance(services.pipeline, NeedsTheBase)
    with client_of(services) as client:
        job_id = client.post("/adapter/train-lite", json={}).json()["job_id"]
        assert services.pipeline.begun.wait(20)
    assert services.engine.state == "stopped"
    database = Database(services.settings.storage.state_dir / "service.db")
    assert JobStore(database).get(job_id).status is JobStatus.QUEUED
    database.close()
