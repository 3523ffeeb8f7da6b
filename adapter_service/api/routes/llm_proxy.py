"""The queue that hubs use which assemble their datasets themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from adapter_service.api.callers import Calling
from adapter_service.api.hub_requests import base_names, cancel_job, job_of_node, submit
from adapter_service.api.openapi import body_of, can_fail_with
from adapter_service.api.schemas.queue import QueueAnswer, QueueBody, QueueCancelAnswer
from adapter_service.api.services import Wired
from adapter_service.api.tracing import use_trace_id
from adapter_service.commands.queued_training import read_envelope
from adapter_service.delivery.callbacks import check_callback_url
from adapter_service.errors import InvalidSchemaError, SchemaFault

router = APIRouter(prefix="/llm-proxy/jobs", tags=["home hubs"])

_SENTENCES = {"Set a timer for ten minutes": 10, "Start a 5 minute timer": 5, "Count down three minutes": 3}
_EXAMPLES = [
    {"voice_command": text, "expected_tool_call": {"name": "set_timer", "arguments": {"minutes": minutes}}}
    for text, minutes in _SENTENCES.items()
]
_EXAMPLE = {
    "job_id": "hub-1",
    "job_type": "adapter_train",
    "idempotency_key": "kitchen-1",
    "ttl_seconds": 86400,
    "request": {
        "node_id": "kitchen",
        "base_model_id": "package:gemma3-270m",
        "dataset_ref": {
            "format": "inline-json",
            "data": {"commands": [{"command_name": "set_timer", "examples": _EXAMPLES}]},
        },
    },
}


@router.post(
    "/queue",
    status_code=202,
    openapi_extra=body_of(QueueBody, A_dataset=_EXAMPLE),
    responses=can_fail_with(403, 409, 429, 507),
)
def queue(body: Annotated[Any, Body()], request: Request, services: Wired, caller: Calling) -> QueueAnswer:
    """Queue the training of a dataset; the same envelope again makes no second job."""
    rules = services.settings.commands
    queued = read_envelope(body, rules, base_names=base_names(services), now=datetime.now(UTC))
    trace_id = use_trace_id(request, queued.trace_id)
    callback = queued.callback
    if callback is not None:
        check_callback_url(callback["url"], rules.callback_urls)
        if "token" not in callback:
            if caller.digest is None:
                message = "there is no API key to sign with; send a token, or ask with a key"
                raise InvalidSchemaError([SchemaFault("callback.token", "missing_field", message)])
            callback = {**callback, "secret": caller.digest}
    training = replace(queued.training, callback=callback)
    submitted = submit(training, services, trace_id=trace_id)
    return QueueAnswer(accepted=True, job_id=queued.job_id, deduped=submitted.deduped)


@router.post("/{job_id}/cancel", responses=can_fail_with(404, 409, 507))
def cancel(job_id: str, services: Wired, caller: Calling) -> QueueCancelAnswer:
    """Cancel a job by the hub's id, or by ours."""
    return QueueCancelAnswer(job_id=job_id, status=cancel_job(job_of_node(job_id, services, caller), services).status)
