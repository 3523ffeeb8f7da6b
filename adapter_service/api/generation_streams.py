"""A generation, which runs on the engine's thread, as seen from the event loop.

Whoever asked may go away at any moment; the generation is then cancelled at once, also when
nothing of it has been read yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from adapter_service.api.generation_requests import Asked
from adapter_service.api.sse import HEADERS, KEEP_ALIVE_SECONDS, or_problem, sse
from adapter_service.engine.generations import Event, Generation, GenerationResult, Piece


async def events(generation: Generation) -> AsyncIterator[Piece | GenerationResult | None]:
    """Pieces of the answers, then the result; None whenever nothing came for `KEEP_ALIVE_SECONDS`.

    Raises:
        Exception: whatever ended the generation.
    """
    queue: asyncio.Queue[Event] = asyncio.Queue()
    generation.listen(_into(queue, asyncio.get_running_loop()), acknowledges=True)
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                event = await queue.get()
        except TimeoutError:
            yield None
            continue
        if isinstance(event, Exception):
            raise event
        yield event
        generation.took()  # whoever reads asks for the next one, so this one is out
        if isinstance(event, GenerationResult):
            return


def _into(queue: asyncio.Queue[Event], loop: asyncio.AbstractEventLoop) -> Callable[[Event], None]:
    def hand_over(event: Event) -> None:
        # A loop that is closed has nobody who reads, and the engine's thread must not suffer for it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, event)

    return hand_over


async def result_unless_gone(request: Request, generation: Generation) -> GenerationResult | None:
    """The result; None, with the generation cancelled, when the client went away before it."""
    results = await results_unless_gone(request, [generation])
    return results[0] if results else None


async def results_unless_gone(request: Request, generations: Sequence[Generation]) -> list[GenerationResult] | None:
    """The results, in the generations' order; None, with all cancelled, when the client went away before the last.

    Raises:
        Exception: whatever ended one of the generations; the others are cancelled.
    """
    results = asyncio.gather(*map(_result, generations))
    gone = asyncio.create_task(_gone(request))
    either: set[asyncio.Future[Any]] = {results, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return results.result() if results.done() else None
    finally:
        for generation in generations:
            generation.cancel()
        results.cancel()
        gone.cancel()


async def _result(generation: Generation) -> GenerationResult:
    async for event in events(generation):
        if isinstance(event, GenerationResult):
            return event
    raise AssertionError("a generation ends with a result or an error")


async def _gone(request: Request) -> None:
    # The body has been read, so the only message that can follow is the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass


class GenerationStream(EventSourceResponse):
    """`encoded` events of the generations that it reads, which are cancelled when nobody takes it any more."""

    def __init__(self, generations: Sequence[Generation], encoded: AsyncIterator[bytes]) -> None:
        super().__init__(encoded, headers=HEADERS)
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: one that was never begun has no `finally` to run.
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generation in self._generations:
                generation.cancel()


class AnswerStream(GenerationStream):
    """Server-sent events of one answer: `token` {text}, then `done` with the answer, or `error`."""

    def __init__(self, scope: Scope, asked: Asked) -> None:
        super().__init__([asked.generation], or_problem(scope, _encoded(asked)))


async def _encoded(asked: Asked) -> AsyncIterator[bytes]:
    async for event in events(asked.generation):
        if event is None:
            yield KEEPALIVE_COMMENT
        elif isinstance(event, GenerationResult):
            answer = await run_in_threadpool(asked.answer, event)
            yield sse("done", answer.model_dump(mode="json"))
        elif event.text:
            yield sse("token", {"text": event.text})
