"""Answer a prompt, at once or as a stream of events."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from starlette.concurrency import run_in_threadpool

from adapter_service.api.callers import Calling
from adapter_service.api.generation_requests import ask, named_adapter
from adapter_service.api.generation_streams import AnswerStream, result_unless_gone
from adapter_service.api.openapi import can_fail_with, event_stream, object_of, schema_of
from adapter_service.api.schemas.generation import GenerateAnswer, GenerateBody
from adapter_service.api.services import Wired
from adapter_service.api.tracing import CLIENT_GONE, use_trace_id

router = APIRouter(tags=["generation"])

_EXAMPLES = {
    "translate": {
        "summary": "A translation by the default adapter",
        "value": {"prompt": "Translate to Hindi: Good morning", "lang": "hi"},
    },
    "base": {
        "summary": "The base alone, sampled, as a stream",
        "value": {
            "prompt": "Once upon a time",
            "adapter": "base",
            "temperature": 0.7,
            "seed": 7,
            "stream": True,
        },
    },
    "older": {
        "summary": "A body of the older service",
        "value": {"prompt": "Say hello", "adapter_path": "none", "max_new_tokens": 50, "top_k": 50},
    },
}
_STREAM = event_stream(
    "The answer; with `stream`, events: `token` {text}, then `done` (the answer) or `error`.",
    'event: token\ndata: {"text": "सुप्रभात"}\n\nevent: done\ndata: {"text": "सुप्रभात"}\n\n',
    token=object_of(text={"type": "string"}),
    done=schema_of("GenerateAnswer"),
)


@router.post(
    "/generate-lite", response_model=GenerateAnswer, responses={**_STREAM, **can_fail_with(404, 409, 429, 503)}
)
async def generate(
    body: Annotated[GenerateBody, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    services: Wired,
    caller: Calling,
) -> Any:
    """Answer a prompt with an adapter or with the base alone; a client that goes away frees its place."""
    arrived_at = time.monotonic()
    trace_id = use_trace_id(request, body.trace_id)
    with caller.asking(named_adapter(body)):
        asked = await run_in_threadpool(ask, body, services, trace_id=trace_id, arrived_at=arrived_at)
    if body.stream:
        return AnswerStream(request.scope, asked)
    result = await result_unless_gone(request, asked.generation)
    if result is None:
        return Response(status_code=CLIENT_GONE)
    return await run_in_threadpool(asked.answer, result)
