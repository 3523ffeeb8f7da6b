"""A row of the job table as people and programs read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_service.api.errors import without_paths
from adapter_service.api.schemas.training import JobAnswer, JobError
from adapter_service.api.services import Services
from adapter_service.jobs.job import Job, JobStatus

# What the pipeline reports and the answer has fields of its own for; the rest goes into `details`.
_NOT_DETAILS = (
    "loss",
    "tokens_per_second",
    "seconds_left",
    "samples",
    "peak_memory_mb",
    "gate",
    "version",
    "source",
)


def job_answer(job: Job, services: Services) -> JobAnswer:
    told: dict[str, Any] = {**job.progress, **(job.result or {})}
    error = JobError(code=job.error_code, message=_error_text(job)) if job.error_code else None
    return JobAnswer(
        job_id=job.id,
        adapter=job.adapter,
        status=job.status,
        phase=job.phase,
        step=job.step,
        total_steps=job.total_steps,
        progress=progress(job),
        seconds_left=None if job.status.finished else told.get("seconds_left"),
        loss=told.get("loss"),
        tokens_per_second=told.get("tokens_per_second"),
        samples=told.get("samples") or {},
        peak_memory_mb=told.get("peak_memory_mb"),
        gate=told.get("gate"),
        version=told.get("version"),
        error=error,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        message=message(job, services),
        trace_id=job.trace_id,
        attempt=job.attempt,
        source=told.get("source") or _source(job, services),
        cancel_requested=job.cancel_requested,
        pause_requested=job.pause_requested,
        details={name: value for name, value in told.items() if name not in _NOT_DETAILS},
    )


def _source(job: Job, services: Services) -> str:
    if job.node_id is not None:
        return f"commands of node {job.node_id}"
    return str(job.request.get("source") or services.settings.data.source)


def progress(job: Job) -> float:
    """Share of the optimizer steps that are done; 1 for a job that succeeded."""
    if job.status is JobStatus.SUCCEEDED:
        return 1.0
    return min(1.0, job.step / job.total_steps) if job.total_steps else 0.0


def message(job: Job, services: Services) -> str:
    """Where the job stands, in one sentence."""
    if job.status is JobStatus.QUEUED:
        position = services.jobs.position(job.id)
        return (f"waiting at place {position}" if position else "waiting") + _held_up(services)
    if job.status is JobStatus.PAUSED:
        done = f" at step {job.step} of {job.total_steps or '?'}" if job.step else ""
        return f"paused{done}; POST /adapter/resume/{job.id} puts it back into the queue, at its old place"
    if job.status is JobStatus.RUNNING:
        doing = job.phase or "starting"
        return f"{doing}, step {job.step} of {job.total_steps or '?'}{_asked(job)}"
    if job.status is JobStatus.SUCCEEDED:
        return _verdict(job.result or {})
    return _error_text(job) or str(job.status)


def _asked(job: Job) -> str:
    if job.cancel_requested:
        return "; it was asked to stop"
    return "; it was asked to pause" if job.pause_requested else ""


def _held_up(services: Services) -> str:
    """Why no job begins, where none does."""
    engine = services.engine
    if services.runner.fault:
        return without_paths(f"; no job begins: {services.runner.fault}")
    if engine.state == "failed":
        return without_paths(
            f"; no job begins, because the base could not be loaded: {engine.note}. "
            "Mend that and restart the service, and this one begins; or cancel it"
        )
    return f"; it begins when the base is loaded ({without_paths(engine.note)})" if engine.state == "loading" else ""


def _error_text(job: Job) -> str:
    return without_paths(job.error_message or "")


def _verdict(result: Mapping[str, Any]) -> str:
    gate = result.get("gate")
    reasons = gate.get("reasons", []) if isinstance(gate, Mapping) else []
    version = result.get("version")
    made = f"version {version} was made" if version is not None else "done"
    return "; ".join([made, *map(str, reasons)])
