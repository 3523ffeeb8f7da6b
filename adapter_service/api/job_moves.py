"""Moves of jobs that clients ask for, with what follows from them: files removed, the runner woken."""

from __future__ import annotations

from adapter_service.api.services import Services
from adapter_service.jobs.job import Job


def cancel(job_id: str, services: Services) -> Job:
    """End a waiting job now; ask a running one to."""
    job = services.jobs.request_cancel(job_id)
    if job.status.finished:
        services.pipeline.forget(job.id)
    return job


def resume(job_id: str, services: Services) -> Job:
    job = services.jobs.request_resume(job_id)
    services.runner.wake()
    return job
