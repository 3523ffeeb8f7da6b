"""Server-sent events as OpenAI's clients read them: data alone, an error as the last of it, `[DONE]` only after all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Scope

from adapter_service.api.errors import problem_of
from adapter_service.api.generation_streams import GenerationStream, events
from adapter_service.api.openai_errors import openai_error
from adapter_service.engine.generations import Generation, GenerationResult, Piece

DONE = b"data: [DONE]\n\n"
KEEPALIVE = KEEPALIVE_COMMENT


def data(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


class OpenAIStream(GenerationStream):
    """`encoded`, then `[DONE]` or an error."""

    def __init__(self, scope: Scope, generations: Sequence[Generation], encoded: AsyncIterator[bytes]) -> None:
        super().__init__(generations, _or_error(scope, encoded))


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
