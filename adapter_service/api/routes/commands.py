"""Route a sentence to one of a node's commands."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from starlette.concurrency import run_in_threadpool

from adapter_service.api.callers import Calling
from adapter_service.api.command_routing import ask_route, read_sentence
from adapter_service.api.generation_streams import result_unless_gone
from adapter_service.api.openapi import body_of, can_fail_with
from adapter_service.api.schemas.commands import RouteAnswer, RouteBody
from adapter_service.api.services import Wired
from adapter_service.api.tracing import CLIENT_GONE, use_trace_id

router = APIRouter(prefix="/api/v0/commands", tags=["home hubs"])

_EXAMPLE = {"node_id": "kitchen", "text": "Wake me tomorrow at nine", "context": {"rooms": ["kitchen"]}}


@router.post(
    "/route",
    response_model=RouteAnswer,
    openapi_extra=body_of(RouteBody, A_sentence=_EXAMPLE),
    responses=can_fail_with(403, 404, 409, 429, 503),
)
async def route(body: Annotated[Any, Body()], request: Request, services: Wired, caller: Calling) -> Any:
    """What a sentence means: one call, its dates in ISO 8601, or that no function fits.

    Until the node has a live adapter the base is asked with the same prompt, and the answer says so.
    """
    arrived_at = time.monotonic()
    sentence = await run_in_threadpool(read_sentence, body, services, caller)
    trace_id = use_trace_id(request, sentence.trace_id)
    asked = await run_in_threadpool(ask_route, sentence, services, trace_id=trace_id, arrived_at=arrived_at)
    result = await result_unless_gone(request, asked.generation)
    return Response(status_code=CLIENT_GONE) if result is None else asked.answer(result)
