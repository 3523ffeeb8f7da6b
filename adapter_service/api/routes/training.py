"""Start, follow, pause, resume and cancel a training job."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response

from adapter_service.api import job_moves
from adapter_service.api.job_answers import job_answer
from adapter_service.api.job_streams import STATUS_STREAM, StatusEventId, follow_status, refuse_event_id
from adapter_service.api.job_watches import Watching
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.fields import FollowQuery
from adapter_service.api.schemas.training import JobAnswer, TrainAnswer, TrainBody
from adapter_service.api.services import Wired
from adapter_service.api.tracing import use_trace_id
from adapter_service.api.training_requests import accept, estimate_of

router = APIRouter(tags=["training"])

_EXAMPLES = {
    "default": {"summary": "The configured source, adapter and recipe", "value": {}},
    "short": {
        "summary": "A short run in two languages",
        "value": {
            "adapter": "hindi-tamil",
            "languages": ["hi", "ta"],
            "max_train_samples": 200,
            "max_steps": 20,
        },
    },
    "older": {
        "summary": "A body of the older service",
        "value": {"source": "multilingual_corpus", "max_samples": 200, "config_path": "adapter_config.yaml"},
    },
}
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="A repeated request with the same key makes no second job."),
]


@router.post("/adapter/train-lite", status_code=202, responses=can_fail_with(403, 404, 409, 429, 507))
def train(
    body: Annotated[TrainBody, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    response: Response,
    services: Wired,
    idempotency_key: IdempotencyKey = None,
) -> TrainAnswer:
    """Queue a job that trains a new version of one adapter; the gate decides whether it goes live."""
    trace_id = use_trace_id(request, body.trace_id)
    job = accept(body, services, trace_id=trace_id, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/adapter/status/{job.id}"
    return TrainAnswer(
        job_id=job.id,
        status=job.status,
        message=f"{job.status}; follow it at GET /adapter/status/{job.id}",
        created_at=job.created_at,
        estimate=estimate_of(job, services),
        trace_id=trace_id,
    )


@router.get(
    "/adapter/status/{job_id}", response_model=JobAnswer, responses={**STATUS_STREAM, **can_fail_with(404, 409, 503)}
)
def status(
    job_id: str,
    query: Annotated[FollowQuery, Query()],
    services: Wired,
    watches: Watching,
    last_event_id: StatusEventId = None,
) -> Any:
    """Where a job stands; with `follow=true` whenever that changes, as server-sent events."""
    job = services.jobs.get(job_id)
    if query.follow:
        return follow_status(job, watches, last_event_id)
    refuse_event_id(last_event_id)
    return job_answer(job, services)


@router.post("/adapter/cancel/{job_id}", responses=can_fail_with(404, 409, 507))
def cancel(job_id: str, services: Wired) -> JobAnswer:
    """End a waiting job now, a running one within a layer of its pass; asking again is harmless."""
    return job_answer(job_moves.cancel(job_id, services), services)


@router.post("/adapter/pause/{job_id}", responses=can_fail_with(404, 409, 507))
def pause(job_id: str, services: Wired) -> JobAnswer:
    """Hold a waiting job back; let a running one write a checkpoint and stop. Asking again is harmless."""
    return job_answer(services.jobs.request_pause(job_id), services)


@router.post("/adapter/resume/{job_id}", responses=can_fail_with(404, 409, 507))
def resume(job_id: str, services: Wired) -> JobAnswer:
    """Put a paused job back into the queue, at its old place; it goes on from its checkpoint."""
    return job_answer(job_moves.resume(job_id, services), services)
