"""Text continued as it stands, as OpenAI's older clients ask for it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from starlette.concurrency import run_in_threadpool

from adapter_service.api.callers import Calling
from adapter_service.api.completion_answers import completion, completion_events
from adapter_service.api.completion_requests import ask_completion
from adapter_service.api.generation_streams import results_unless_gone
from adapter_service.api.openai_streams import OpenAIStream
from adapter_service.api.openapi import can_fail_with, data_stream
from adapter_service.api.schemas.completions import Completion, CompletionBody
from adapter_service.api.services import Wired
from adapter_service.api.tracing import CLIENT_GONE, use_trace_id

router = APIRouter(prefix="/v1", tags=["openai"])

_EXAMPLES = {
    "continue": {
        "summary": "Two continuations by the base",
        "value": {"model": "base", "prompt": "Once upon a time", "max_tokens": 20, "n": 2, "seed": 7},
    },
    "several": {
        "summary": "Two prompts at once, greedily, with log-probabilities",
        "value": {"model": "base", "prompt": ["One, two,", "A, B,"], "temperature": 0, "logprobs": 2},
    },
}
_STREAM = data_stream(
    "The continuations; with `stream`, events of data alone: pieces, and `[DONE]` at the end.",
    'data: {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": " there", '
    '"logprobs": null, "finish_reason": null}]}\n\ndata: [DONE]\n\n',
)


@router.post("/completions", response_model=Completion, responses={**_STREAM, **can_fail_with(404, 409, 429, 503)})
async def create_completion(
    body: Annotated[CompletionBody, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    services: Wired,
    caller: Calling,
) -> Any:
    """Continue one text or several, without any chat template; a client that goes away frees its places."""
    arrived_at = time.monotonic()
    trace_id = use_trace_id(request, None)
    with caller.asking(body.model):
        asked = await run_in_threadpool(ask_completion, body, services, trace_id=trace_id, arrived_at=arrived_at)
    if body.stream:
        return OpenAIStream(request.scope, asked.generations, completion_events(asked))
    results = await results_unless_gone(request, asked.generations)
    if results is None:
        return Response(status_code=CLIENT_GONE)
    return await run_in_threadpool(completion, asked, results)
