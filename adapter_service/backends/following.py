"""The answers to one request as a server writes them: from its tokens or its text to what a reader gets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from adapter_service.backends.server import Ended, Said, Server, Wanted
from adapter_service.engine.generations import (
    NOBODY_READS,
    SLOWEST_READER_SECONDS,
    Generation,
    GenerationResult,
    never_begun,
)
from adapter_service.engine.measures import Measures
from adapter_service.engine.requests import Sampling
from adapter_service.engine.writing import Writing
from adapter_service.errors import (
    BackendRefusalError,
    BackendUnreachableError,
    InvalidParameterError,
    SlowReaderError,
)

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

log = logging.getLogger(__name__)

# So often an answer is asked for anew, or goes on elsewhere, after its server was lost.
_MOST_RETRIES = 2
_RETRY_SECONDS = 1.0


class Following:
    """One request from its admission on; `changed` is to be set when its reader took something."""

    def __init__(self, generation: Generation, server: Server, base: BaseModel, measures: Measures) -> None:
        self.generation = generation
        self.changed = asyncio.Event()
        self.admitted_at: float | None = None
        self._server = server
        self._base = base
        self._measures = measures
        self._first_token_at: float | None = None
        self._writings: list[Writing] = []

    async def write_all(self) -> None:
        """Have all answers written, side by side."""
        self.admitted_at = time.monotonic()
        self._measures.admitted(self.admitted_at - self.generation.submitted_at)
        ask = self.generation.ask
        tasks = [asyncio.create_task(self._write(index, ask.sampling_of(index))) for index in range(ask.count)]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_all(tasks)

    def cut_short(self) -> None:
        """End every answer where it is."""
        for writing in self._writings:
            if writing.choice is None:
                writing.end("cancelled")

    def result(self) -> GenerationResult:
        """Once all have ended; of a request that never began, nothing."""
        if self.admitted_at is None or not self._writings:
            return never_begun(self.generation)
        return GenerationResult(
            choices=tuple(writing.choice for writing in self._writings if writing.choice is not None),
            prompt_tokens=len(self.generation.ask.prompt_ids),
            waited_seconds=self.admitted_at - self.generation.submitted_at,
            seconds=time.monotonic() - self.admitted_at,
        )

    async def _write(self, index: int, sampling: Sampling) -> None:
        """One answer, asked for again where its server was lost and what it was going to say is still the same."""
        ask, publish = self.generation.ask, self.generation.publish
        ends = self._base.eos_ids() | sampling.extra_eos_ids
        writing = Writing(self._base.tokenizer, ask.prompt_ids, sampling, ends, index, publish)
        self._writings.append(writing)
        wanted, retries = Wanted(ask.prompt_ids, sampling, ends, ask.adapter, ask.scale), 0
        while writing.choice is None and writing.has_room():
            try:
                await self._follow(writing, wanted.after(writing.tokens))
            except BackendRefusalError as error:
                if error.reason == "invalid":  # a number beyond what that server allows, say
                    raise InvalidParameterError(str(error)) from error
                raise
            except BackendUnreachableError as error:
                retries += 1
                if retries > _MOST_RETRIES or not self._can_go_on(writing, sampling):
                    raise
                log.warning("an answer goes on: %s", error, extra={"action": "answer_retried"})
                await asyncio.sleep(_RETRY_SECONDS)

    def _can_go_on(self, writing: Writing, sampling: Sampling) -> bool:
        """Whether what was said so far can go into the prompt: greedily, and by nothing that counts from there on."""
        if not writing.completion_tokens:
            return True
        counts = sampling.repetition_penalty != 1.0 or sampling.presence_penalty or sampling.frequency_penalty
        return self._server.tells_tokens and not (counts or sampling.do_sample or sampling.constraint)

    async def _follow(self, writing: Writing, wanted: Wanted) -> None:
        async with aclosing(self._server.answer(wanted)) as saying:
            async for said in saying:
                if isinstance(said, Ended):
                    writing.end(said.reason)
                    return
                self._measure(writing)
                if not self._take(writing, said, wanted.sampling):
                    return
                await self._let_read()
        raise BackendUnreachableError(f"{self._server.kind} ended an answer without saying why")

    def _take(self, writing: Writing, said: Said, sampling: Sampling) -> bool:
        """Whether the answer goes on."""
        before, token = writing.completion_tokens, said.token
        if writing.trail is not None:
            # Of a drawn token it is told what base and adapter gave it, and not what temperature and cuts made of that.
            writing.trail.add(token.id, token.logprob, None if sampling.do_sample else 0.0, token.top)
        if said.text is None or token.id in writing.ends:
            goes_on = writing.add(token.id)
        else:
            goes_on = writing.add_text(said.text, said.tokens)
        self._measures.generated(writing.completion_tokens - before)
        return goes_on

    def _measure(self, writing: Writing) -> None:
        now = time.monotonic()
        if self._first_token_at is None:
            self._first_token_at = now
            self._measures.prompt_read(len(self.generation.ask.prompt_ids))
            self._measures.first_token(now - self.generation.submitted_at)
        elif writing.completion_tokens:
            self._measures.token(now - writing.token_at)
        writing.token_at = now

    async def _let_read(self) -> None:
        """Wait for a reader that is behind; the server waits too, once what is between is full."""
        while self.generation.waits_for_reader:
            self.changed.clear()
            if not self.generation.waits_for_reader:
                return
            try:
                async with asyncio.timeout(SLOWEST_READER_SECONDS):
                    await self.changed.wait()
            except TimeoutError as error:
                raise SlowReaderError(NOBODY_READS) from error


async def cancel_all(tasks: Sequence[asyncio.Task[Any] | None]) -> None:
    """Cancel those that have not ended, and wait for all; what they came to is known elsewhere."""
    running: list[Awaitable[Any]] = []
    for task in tasks:
        if task is not None:
            task.cancel()
            running.append(task)
    await asyncio.gather(*running, return_exceptions=True)
