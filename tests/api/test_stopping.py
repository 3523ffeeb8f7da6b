"""The end of the service while a job cannot stop: its source stalls, say."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.api import services as services_module
from adapter_service.api.services import Pipeline
from adapter_service.database import Database
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job, JobStatus
from adapter_service.jobs.store import JobStore
from adapter_service.jobs.train_request import TrainRequest
from tests.api.conftest import MakeServices

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


class Stalled(Pipeline):
    """Waits for a source that says nothing, and hears of nothing else meanwhile."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        self.begun.set()
        assert self.released.wait(60)
        return {}

    def estimate(self, request: TrainRequest) -> Mapping[str, Any]:
        return {}

    def forget(self, job_id: str) -> None:
        """Nothing was kept."""


def test_a_job_that_cannot_stop_in_time_queues_again_and_that_is_no_crash(
    make_services: MakeServices, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_module, "STOP_SECONDS", 0.1)
    pipeline = Stalled()
    services = make_services(lambda *_: pipeline, load_base=lambda note: tiny_base)
    services.start()
    job = services.jobs.create({"adapter": "a"}, adapter="a", trace_id="t", queue_limit=1)
    services.runner.wake()
    assert pipeline.begun.wait(60)
    services.stop()
    pipeline.released.set()
    assert services.runner.stop(timeout=60)
    again = Database(services.settings.storage.state_dir / "service.db")
    found = JobStore(again).get(job.id)
    again.close()
    assert (found.status, found.attempt, found.crashes) == (JobStatus.QUEUED, 1, 0)
