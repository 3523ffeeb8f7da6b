"""Fine-tuning jobs as OpenAI's clients start and follow them, over the jobs of `POST /adapter/train-lite`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request

from adapter_service.api import job_moves
from adapter_service.api.fine_tuning_answers import checkpoints, fine_tuning_event, fine_tuning_job
from adapter_service.api.fine_tuning_ids import event_number, job_id_of, shown_job_id, unknown_job
from adapter_service.api.fine_tuning_requests import asked, train_request, wanted_metadata
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.routes.training import IdempotencyKey
from adapter_service.api.schemas.fine_tuning import (
    CheckpointQuery,
    FineTuningBody,
    FineTuningCheckpointList,
    FineTuningEventList,
    FineTuningJob,
    FineTuningJobList,
    JobListQuery,
    PageQuery,
)
from adapter_service.api.services import Services, Wired
from adapter_service.api.tracing import use_trace_id
from adapter_service.api.training_requests import queued
from adapter_service.errors import NotFoundError, UnknownJobError

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

_EXAMPLES = {
    "source": {
        "summary": "From a configured source",
        "value": {"model": "base", "training_file": "source:multilingual_corpus", "suffix": "multilingual"},
    },
}


def _known(shown: str, services: Services) -> str:
    """Our id of a job that there is."""
    try:
        return services.jobs.get(job_id_of(shown)).id
    except UnknownJobError as error:
        raise unknown_job(shown) from error


def _job_id(fine_tuning_job_id: str, services: Wired) -> str:
    return _known(fine_tuning_job_id, services)


JobId = Annotated[str, Depends(_job_id)]


@router.post("", responses=can_fail_with(403, 404, 409, 429, 507))
def create(
    body: Annotated[FineTuningBody, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    services: Wired,
    idempotency_key: IdempotencyKey = None,
) -> FineTuningJob:
    """Queue a job that trains a new version of the adapter `suffix`; the gate decides whether it goes live."""
    wanted = train_request(body, services.settings)
    trace_id = use_trace_id(request, None)
    job = queued(wanted, services, trace_id=trace_id, idempotency_key=idempotency_key, asked=asked(body))
    return fine_tuning_job(job, services)


@router.get("", responses=can_fail_with(404))
def list_jobs(query: Annotated[JobListQuery, Query()], services: Wired) -> FineTuningJobList:
    """Jobs of this API and of the other, newest first."""
    page = services.history.jobs(
        after=None if query.after is None else _known(query.after, services),
        limit=query.limit,
        metadata=wanted_metadata(query),
        without_metadata=query.metadata == "null",
    )
    return FineTuningJobList(data=[fine_tuning_job(job, services) for job in page.items], has_more=page.has_more)


@router.get("/{fine_tuning_job_id}", responses=can_fail_with(404, 409))
def retrieve(job_id: JobId, services: Wired) -> FineTuningJob:
    """Where a job stands."""
    return fine_tuning_job(services.jobs.get(job_id), services)


@router.post("/{fine_tuning_job_id}/cancel", responses=can_fail_with(404, 409, 507))
def cancel(job_id: JobId, services: Wired) -> FineTuningJob:
    """End a waiting job now, a running one within a layer of its pass; asking again is harmless."""
    return fine_tuning_job(job_moves.cancel(job_id, services), services)


@router.post("/{fine_tuning_job_id}/pause", responses=can_fail_with(404, 409, 507))
def pause(job_id: JobId, services: Wired) -> FineTuningJob:
    """Hold a waiting job back; let a running one write a checkpoint and stop. Asking again is harmless."""
    return fine_tuning_job(services.jobs.request_pause(job_id), services)


@router.post("/{fine_tuning_job_id}/resume", responses=can_fail_with(404, 409, 507))
def resume(job_id: JobId, services: Wired) -> FineTuningJob:
    """Put a paused job back into the queue, at its old place; it goes on from its checkpoint."""
    return fine_tuning_job(job_moves.resume(job_id, services), services)


@router.get("/{fine_tuning_job_id}/events", responses=can_fail_with(404, 409))
def list_events(job_id: JobId, query: Annotated[PageQuery, Query()], services: Wired) -> FineTuningEventList:
    """What happened to a job and what its steps measured, newest first."""
    job = services.jobs.get(job_id)
    page = services.history.events(job.id, after=event_number(query.after), limit=query.limit)
    return FineTuningEventList(data=[fine_tuning_event(event, job) for event in page.items], has_more=page.has_more)


@router.get("/{fine_tuning_job_id}/checkpoints", responses=can_fail_with(404, 409))
def list_checkpoints(
    job_id: JobId, query: Annotated[CheckpointQuery, Query()], services: Wired
) -> FineTuningCheckpointList:
    """The version that a job made, live or rejected: what requests may name. What it resumes from is not among them."""
    job = services.jobs.get(job_id)
    made = checkpoints(job, services)
    if query.after is not None:
        if query.after not in {checkpoint.id for checkpoint in made}:
            raise NotFoundError(f"{shown_job_id(job_id)} has no checkpoint {query.after!r}; leave 'after' out")
        made = []  # nothing follows the only one
    first = made[0].id if made else None
    return FineTuningCheckpointList(data=made, first_id=first, last_id=first, has_more=False)
