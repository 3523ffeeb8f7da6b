"""SIGTERM on the real server while a job trains and streams are open: all of it ends, and no step is done twice."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from adapter_service.jobs.job import JobStatus
from tests.chaos.service import STEPS, Service
from tests.waiting import eventually


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), tiny_base_folder)
    made.start()
    yield made
    made.close()


class Reader(threading.Thread):
    """Somebody who reads a stream to its end."""

    def __init__(self, method: str, url: str, body: object = None) -> None:
        super().__init__(daemon=True)
        self._request = (method, url, body)
        self.begun = threading.Event()
        self.text = ""
        self.start()
        assert self.begun.wait(60)

    def run(self) -> None:
        method, url, body = self._request
        with requests.request(method, url, json=body, stream=True, timeout=120) as answer:
            self.begun.set()
            self.text = "".join(piece.decode() for piece in answer.iter_content(None))


def test_a_job_is_saved_at_once_and_goes_on_with_the_next_step(service: Service) -> None:
    undisturbed = service.train("undisturbed")
    assert undisturbed
    assert service.ended(undisturbed)["status"] == "succeeded"
    with service.slow_steps():
        job_id = service.train("stopped")
        assert job_id
        eventually(lambda: service.status(job_id)["step"] >= 7, "some steps")
        log = Reader("GET", f"{service.address}/adapter/logs/{job_id}?follow=true")
        endless = {"max_tokens": 480, "n": 8, "structured_outputs": {"regex": "[a-z]{2000}"}}
        story = {"model": "base", "prompt": list("abcdefgh"), "stream": True, **endless}
        answer = Reader("POST", f"{service.address}/v1/completions", story)
        assert service.kill(signal.SIGTERM) == -signal.SIGTERM  # uvicorn raises the signal again at its end
    for reader in (log, answer):
        reader.join(60)
        assert not reader.is_alive()
    # The launcher gives less than serving.drain_seconds, and who reads is told all the same.
    assert '"code": "not_ready"' in answer.text.split("\n\n")[-2]
    (job,) = [job for job in service.jobs() if job.id == job_id]
    assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, 1, 0)
    service.start()
    assert service.ended(job_id)["status"] == "succeeded"
    lines = service.log_of(job_id)
    steps = [int(found[1]) for line in lines if (found := re.match(r"step (\d+) of", line))]
    assert steps == list(range(1, STEPS + 1))
    assert f"going on from the checkpoint at step {job.step}" in lines
    assert service.weights("stopped") == service.weights("undisturbed")
