"""Start, follow and cancel a training job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Header, Request, Response

from adapter_service.api.accepting import accept
from adapter_service.api.job_answers import job_answer
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.training import JobAnswer, TrainAnswer, TrainBody
from adapter_service.api.services import Wired
from adapter_service.api.tracing import use_trace_id
from adapter_service.jobs.train_request import TrainRequest

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


@router.post("/adapter/train-lite", status_code=202, responses=can_fail_with(403, 404, 409, 429))
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
        estimate=dict(services.pipeline.estimate(TrainRequest(**job.request))),
        trace_id=trace_id,
    )


@router.get("/adapter/status/{job_id}", responses=can_fail_with(404))
def status(job_id: str, services: Wired) -> JobAnswer:
    """Where a job stands."""
    return job_answer(services.jobs.get(job_id), services)


@router.post("/adapter/cancel/{job_id}", responses=can_fail_with(404, 409))
def cancel(job_id: str, services: Wired) -> JobAnswer:
    """End a waiting job now, a running one within a micro-step; asking again is harmless."""
    return job_answer(services.jobs.request_cancel(job_id), services)
