"""Adapters for a home hub's nodes: post commands, follow the job, cancel it, say that its adapter has come."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from adapter_service.api.callers import Calling
from adapter_service.api.hub_answers import artifact_url, hub_answer, hub_status
from adapter_service.api.hub_requests import cancel_job, job_of_node, submit, training_asked
from adapter_service.api.openapi import body_of, can_fail_with
from adapter_service.api.schemas.commands import (
    CommandTrainingAnswer,
    CommandTrainingBody,
    DateKeys,
    DatePattern,
    HubJobAnswer,
)
from adapter_service.api.services import Wired
from adapter_service.api.tracing import use_trace_id
from adapter_service.commands.date_keys import NOTES, PATTERNS, STATIC_KEYS, VERSION
from adapter_service.errors import WrongJobStateError

router = APIRouter(prefix="/api/v0/adapters", tags=["home hubs"])

_TIMER = {
    "command_name": "set_timer",
    "description": "Start a countdown",
    "parameters": [{"name": "minutes", "type": "int"}],
    "examples": [
        {"voice_command": "Set a timer for ten minutes", "expected_parameters": {"minutes": 10}},
        {"voice_command": "Start a 5 minute timer", "expected_parameters": {"minutes": 5}},
        {"voice_command": "Count down three minutes", "expected_parameters": {"minutes": 3}},
    ],
}
_EXAMPLE = {"node_id": "kitchen", "base_model_id": "package:gemma3-270m", "command_schema": [_TIMER]}


@router.post(
    "/train",
    status_code=202,
    openapi_extra=body_of(CommandTrainingBody, One_command_of_a_node=_EXAMPLE),
    responses={200: {"model": CommandTrainingAnswer}, **can_fail_with(403, 409, 429, 507)},
)
def train(
    body: Annotated[Any, Body()], request: Request, response: Response, services: Wired, caller: Calling
) -> CommandTrainingAnswer:
    """Have a node's commands learned; the same commands again are answered at once, by the job that learned them."""
    training, own = training_asked(body, services, caller)
    submitted = submit(training, services, trace_id=use_trace_id(request, own))
    job = submitted.job
    response.headers["Location"] = f"/api/v0/adapters/jobs/{job.id}"
    if submitted.deduped:
        response.status_code = 200
    delivery = services.hub.deliveries.get(job.id)
    return CommandTrainingAnswer(
        job_id=job.id,
        status=hub_status(job, delivery),
        dataset_hash=training.dataset_hash,
        deduped=submitted.deduped,
        artifact_url=artifact_url(delivery, services),
        node_id=training.node_id,
        adapter=job.adapter,
        message=f"follow it at GET /api/v0/adapters/jobs/{job.id}",
        trace_id=job.trace_id,
    )


@router.get("/jobs/{job_id}", responses=can_fail_with(404))
def job(job_id: str, services: Wired, caller: Calling) -> HubJobAnswer:
    """Where a node's job stands, with a signed URL of its adapter once it is there."""
    return hub_answer(job_of_node(job_id, services, caller), services)


@router.post("/jobs/{job_id}/cancel", responses=can_fail_with(404, 409, 507))
def cancel(job_id: str, services: Wired, caller: Calling) -> HubJobAnswer:
    """End a waiting job now, a running one soon; of one that is trained already, its publication."""
    return cancel_job(job_of_node(job_id, services, caller), services)


@router.post("/jobs/{job_id}/acknowledge", responses=can_fail_with(404, 409, 507))
def acknowledge(job_id: str, services: Wired, caller: Calling) -> HubJobAnswer:
    """The node has its adapter: the artifact is deleted. Again is harmless."""
    found = job_of_node(job_id, services, caller)
    delivery = services.hub.deliveries.get(found.id)
    has_been = delivery is not None and delivery.acknowledged_at is not None
    if not services.hub.deliveries.acknowledge(found.id) and not has_been:
        raise WrongJobStateError(
            f"{found.id} is {hub_status(found, delivery)} and has nothing published; only a published adapter can be "
            "acknowledged"
        )
    services.hub.wake()
    return hub_answer(found, services)


@router.get("/date-keys")
def date_keys() -> DateKeys:
    """The vocabulary of dates: the same for every node, and open to everybody."""
    return DateKeys(
        version=VERSION,
        static_keys=list(STATIC_KEYS),
        dynamic_patterns=[
            DatePattern(pattern=pattern, regex=regex, description=NOTES[pattern]) for pattern, regex in PATTERNS.items()
        ],
        notes={name: note for name, note in NOTES.items() if name not in PATTERNS},
    )
