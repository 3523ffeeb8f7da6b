"""A conversation's next message, as OpenAI's clients ask for it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from starlette.concurrency import run_in_threadpool

from adapter_service.api.callers import Calling
from adapter_service.api.chat_answers import chat_completion, chat_events
from adapter_service.api.chat_requests import ask_chat
from adapter_service.api.generation_streams import result_unless_gone
from adapter_service.api.openai_streams import OpenAIStream
from adapter_service.api.openapi import can_fail_with, data_stream
from adapter_service.api.schemas.chat import ChatBody, ChatCompletion
from adapter_service.api.services import Wired
from adapter_service.api.tracing import CLIENT_GONE, use_trace_id

router = APIRouter(prefix="/v1", tags=["openai"])

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_EXAMPLES = {
    "translate": {
        "summary": "A translation by an adapter",
        "value": {
            "model": "multilingual",
            "messages": [{"role": "user", "content": "Translate to Hindi: Good morning"}],
            "temperature": 0,
        },
    },
    "base": {
        "summary": "The base alone, as a stream",
        "value": {
            "model": "base",
            "messages": [
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": "Name a colour."},
            ],
            "max_completion_tokens": 20,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "tools": {
        "summary": "A tool that must be called",
        "value": {
            "model": "base",
            "messages": [{"role": "user", "content": "How is the weather in Pune?"}],
            "tools": [_WEATHER],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    },
}
_STREAM = data_stream(
    "The next message; with `stream`, events of data alone: chunks, and `[DONE]` at the end.",
    'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": '
    '{"content": "सुप्रभात"}, "finish_reason": null}]}\n\ndata: [DONE]\n\n',
)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={**_STREAM, **can_fail_with(404, 409, 429, 503)},
)
async def create_chat_completion(
    body: Annotated[ChatBody, Body(openapi_examples=_EXAMPLES)], request: Request, services: Wired, caller: Calling
) -> Any:
    """Answer a conversation with an adapter or the base; a client that goes away frees its place."""
    arrived_at = time.monotonic()
    trace_id = use_trace_id(request, None)
    with caller.asking(body.model):
        asked = await run_in_threadpool(ask_chat, body, services, trace_id=trace_id, arrived_at=arrived_at)
    if body.stream:
        return OpenAIStream(request.scope, [asked.generation], chat_events(asked))
    result = await result_unless_gone(request, asked.generation)
    if result is None:
        return Response(status_code=CLIENT_GONE)
    return await run_in_threadpool(chat_completion, asked, result)
