"""Server-sent events as OpenAI's clients read them: data alone, an error as the last of it, `[DONE]` only after all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.types import Receive, Scope, Send

from adapter_service.api.errors import problem_of
from adapter_service.api.generation_streams import events
from adapter_service.api.openai_errors import openai_error
from adapter_service.api.sse import HEADERS
from adapter_service.engine.generations import Generation, GenerationResult, Piece

DONE = b"data: [DONE]\n\n"
KEEPALIVE = KEEPALIVE_COMMENT


def data(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


class OpenAIStream(EventSourceResponse):
    """`encoded` with the generations that it reads, which are cancelled when nobody takes it any more."""

    def __init__(self, scope: Scope, generations: Sequence[Generation], encoded: AsyncIterator[bytes]) -> None:
        super().__init__(_or_error(scope, encoded), headers=HEADERS)
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: one that was never begun has no `finally` to run.
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generation in self._generations:
                generation.cancel()


async def _or_error(scope: Scope, encoded: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Events, then `[DONE]`; or an error and no `[DONE]` where they fail: the status is sent by then."""
    try:
        async for event in encoded:
            yield event
    except Exception as error:  # noqa: BLE001 - it goes to whoever reads
        yield data(openai_error(problem_of(scope, error)))
    else:
        yield DONE


async def merged(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, Piece | GenerationResult | None]]:
    """Events of several generations as they come, with the place of each; None is a time in which nothing came.

    Raises:
        Exception: whatever ended one of them.
    """
    streams = [events(generation) for generation in generations]
    waiting = {asyncio.ensure_future(anext(stream)): place for place, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                place = waiting.pop(task)
                event = task.result()
                yield place, event
                if not isinstance(event, GenerationResult):
                    waiting[asyncio.ensure_future(anext(streams[place]))] = place
    finally:
        for task in waiting:
            task.cancel()
