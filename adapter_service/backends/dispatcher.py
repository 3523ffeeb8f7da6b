"""Requests to a server of others: they wait here, are asked there, and are told as they are answered.

One thread has an event loop and everything on it: a task for each request, one for the server's own upkeep, and one
that keeps live versions loaded. Other threads hand over requests and read what is counted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from adapter_service.backends.held_adapters import HeldAdapters
from adapter_service.backends.server import Ended, Said, Server, Wanted
from adapter_service.engine.generations import Generation, GenerationResult, never_begun
from adapter_service.engine.measures import Measures, Reading
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.engine.residency import Residency
from adapter_service.engine.writing import Writing
from adapter_service.errors import (
    AdapterServiceError,
    BackendRefusalError,
    BackendUnreachableError,
    BusyError,
    InvalidParameterError,
    NotReadyError,
    SlowReaderError,
)
from adapter_service.settings import ServingSettings

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

log = logging.getLogger(__name__)
T = TypeVar("T")
FindLive = Callable[[str], Sequence[AdapterFiles]]

# How often it is looked which versions are live, though nobody says that others are: another process may have done it.
_LOOK_SECONDS = 15.0
# A reader that takes nothing for so long is gone, though its connection may not say so.
_SLOWEST_READER_SECONDS = 60.0
# So often an answer is asked for anew, or goes on elsewhere, after its server was lost.
_MOST_RETRIES = 2
_RETRY_SECONDS = 1.0
_METRICS_SECONDS = 1.0
_UPKEEP_SECONDS = 5.0
_STOP_SECONDS = 5.0


@dataclass(eq=False)
class _Request:
    """A generation under way; `changed` is set when its reader took something or went away."""

    generation: Generation
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    admitted_at: float | None = None
    first_token_at: float | None = None
    writings: list[Writing] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Dispatcher:
    """`live` gives the versions of a base that are live now, the latest first; it may wait for a database."""

    def __init__(self, server: Server, settings: ServingSettings, live: FindLive) -> None:
        self._server = server
        self._live = live
        self._queue_size = settings.queue_size
        self._residency: Residency[AdapterFiles] = Residency(settings.max_adapters, settings.max_adapter_bytes)
        self._lock = threading.Lock()
        self._waiting: set[Generation] = set()
        self._requests: dict[Generation, _Request] = {}
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # From other threads.

    @property
    def kind(self) -> str:
        return self._server.kind

    @property
    def servers(self) -> list[tuple[str, str | None]]:
        return self._server.servers

    @property
    def fault(self) -> str | None:
        return self._server.fault if self._loop is not None else "the base is not ready yet"

    @property
    def waiting(self) -> int:
        with self._lock:
            return sum(not generation.cancelled for generation in self._waiting)

    @property
    def active(self) -> int:
        return sum(one.generation.ask.count for one in self._running())

    def resident_adapters(self) -> list[str]:
        return self._residency.keys()

    def reading(self) -> Reading:
        running = self._running()
        with self._lock:
            waiting = [generation for generation in self._waiting if not generation.cancelled]
        return Reading(
            running=len(running),
            waiting=len(waiting),
            max_adapters=self._residency.max_adapters,
            resident_adapters=len(self._residency),
            resident_bytes=self._residency.size_bytes,
            adapter_loads=self._residency.loads,
            adapter_evictions=self._residency.evictions,
            running_adapters=_keys([one.generation for one in running]),
            waiting_adapters=_keys(waiting),
        )

    def start(self, base: BaseModel, measures: Measures) -> None:
        self._base, self._measures = base, measures
        if self._stopping:
            return
        begun = threading.Event()
        run = self._run(begun)
        self._thread = threading.Thread(target=asyncio.run, args=[run], name="backend", daemon=True)
        self._thread.start()
        begun.wait()

    def check(self, ask: Ask) -> None:
        self._refuse_when_stopping()
        if (fault := self.fault) is not None:
            raise BackendUnreachableError(fault)
        if ask.prompt_logprobs is not None:
            raise InvalidParameterError(
                f"the prompt's own log-probabilities are asked for, which the engine alone tells (backend.kind is "
                f"{self.kind}); leave 'echo' or 'logprobs' out",
                parameter="logprobs",
            )
        if ask.sampling.foreign_script_penalty:
            raise InvalidParameterError(
                f"'foreign_script_penalty' is {ask.sampling.foreign_script_penalty}, which the engine alone has "
                f"(backend.kind is {self.kind}); leave it out",
                parameter="foreign_script_penalty",
            )
        self._server.check(ask)

    def submit(self, generation: Generation) -> None:
        with self._lock:
            self._refuse_when_stopping()
            if len(self._waiting) >= self._queue_size:
                raise BusyError(f"{self._queue_size} requests are waiting; try again in some seconds")
            generation.lease()
            generation.when_changed(lambda: self._soon(self._changed, generation))
            self._waiting.add(generation)
            self._soon(self._begin, generation)  # within the lock: what is taken begins before the end does

    def load(self, files: AdapterFiles) -> None:
        self._wait_for(lambda: self._held.load(files))

    def pin(self, files: AdapterFiles) -> None:
        self._wait_for(lambda: self._held.pin(files))

    def unpin(self, key: str) -> None:
        with suppress(BackendUnreachableError, NotReadyError):
            self._wait_for(lambda: self._held.unpin(key))

    def look_at_live(self) -> None:
        self._soon(self._look_again)

    def metrics(self) -> list[tuple[str, str]]:
        try:
            return self._wait_for(self._server.metrics, _METRICS_SECONDS)
        except (AdapterServiceError, TimeoutError):
            return []

    def stop(self, *, drain_seconds: float) -> None:
        with self._lock:
            self._stopping = True
            self._soon(self._end, drain_seconds)
        if self._thread is not None and drain_seconds == 0:
            self._thread.join(_STOP_SECONDS)

    def _running(self) -> list[_Request]:
        return [one for one in tuple(self._requests.values()) if one.admitted_at is not None]

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NotReadyError("the service is stopping")

    def _soon(self, action: Callable[..., object], *args: Any) -> None:
        """On the loop, if there is one and it still runs."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has just been closed
                self._loop.call_soon_threadsafe(action, *args)

    def _wait_for(self, action: Callable[[], Coroutine[Any, Any, T]], timeout_seconds: float | None = None) -> T:
        if self._loop is None:
            raise BackendUnreachableError("the base is not ready yet")
        self._refuse_when_stopping()
        future = asyncio.run_coroutine_threadsafe(action(), self._loop)
        try:
            return future.result(timeout_seconds)
        except asyncio.CancelledError as error:
            raise NotReadyError("the service is stopping") from error

    # On the loop.

    async def _run(self, begun: threading.Event) -> None:
        self._ended = asyncio.Event()
        self._looks = asyncio.Event()
        self._places = asyncio.Semaphore(self._server.places)
        self._taking_places = asyncio.Lock()
        self._held = HeldAdapters(self._server, self._residency, self._measures.adapter_loaded)
        self._loop = asyncio.get_running_loop()
        begun.set()
        upkeep = [
            asyncio.create_task(_kept_up(lambda: self._server.run(self._base, self._looks.set))),
            asyncio.create_task(_kept_up(self._keep_live_loaded)),
        ]
        await self._ended.wait()
        await _cancelled(upkeep)
        await self._server.close()

    async def _keep_live_loaded(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._looks.wait()
            self._looks.clear()
            if self._server.fault is None:
                await self._held.keep_live(await self._found_live())

    async def _found_live(self) -> Sequence[AdapterFiles]:
        try:
            return await asyncio.to_thread(self._live, self._base.identity)
        except Exception:
            log.exception("which versions are live is not known", extra={"action": "live_unknown"})
            return []

    def _look_again(self) -> None:
        self._looks.set()

    def _end(self, drain_seconds: float) -> None:
        self._ending = asyncio.create_task(self._drain(drain_seconds))

    async def _drain(self, seconds: float) -> None:
        tasks = [one.task for one in self._requests.values() if one.task is not None]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        await _cancelled(tasks)
        self._ended.set()

    def _begin(self, generation: Generation) -> None:
        request = _Request(generation)
        self._requests[generation] = request
        request.task = asyncio.create_task(self._answer(request))

    def _changed(self, generation: Generation) -> None:
        request = self._requests.get(generation)
        if request is None:
            return
        request.changed.set()
        if generation.cancelled and request.task is not None:
            # After its first step, which is on its way: a task that is cancelled before that never runs at all.
            asyncio.get_running_loop().call_soon(request.task.cancel)

    async def _answer(self, request: _Request) -> None:
        generation = request.generation
        try:
            await self._write_all(request)
        except asyncio.CancelledError:
            self._cut_short(request)
        except AdapterServiceError as error:
            self._fail(request, error)
        except Exception as error:
            log.exception("an answer failed", extra={"action": "generation_failed"})
            self._fail(request, error)
        else:
            self._finish(request)
        finally:
            self._requests.pop(generation, None)
            with self._lock:
                self._waiting.discard(generation)

    async def _write_all(self, request: _Request) -> None:
        ask = request.generation.ask
        async with self._held.use(ask.adapter), self._placed(ask.count):
            with self._lock:
                self._waiting.discard(request.generation)
            request.admitted_at = time.monotonic()
            self._measures.admitted(request.admitted_at - request.generation.submitted_at)
            samplings = [ask.sampling_of(index) for index in range(ask.count)]
            tasks = [asyncio.create_task(self._write(request, *each)) for each in enumerate(samplings)]
            try:
                await asyncio.gather(*tasks)
            finally:
                await _cancelled(tasks)

    @asynccontextmanager
    async def _placed(self, count: int) -> AsyncGenerator[None, None]:
        """So many places; one request after the other takes its own, so that two with half of them each cannot be."""
        taken = 0
        try:
            async with self._taking_places:
                while taken < count:
                    await self._places.acquire()
                    taken += 1
            yield
        finally:
            for _ in range(taken):
                self._places.release()

    async def _write(self, request: _Request, index: int, sampling: Sampling) -> None:
        """One answer, asked for again where its server was lost and what it was going to say is still the same."""
        ask, publish = request.generation.ask, request.generation.publish
        ends = self._base.eos_ids() | sampling.extra_eos_ids
        writing = Writing(self._base.tokenizer, ask.prompt_ids, sampling, ends, index, publish)
        request.writings.append(writing)
        if not sampling.max_new_tokens:
            writing.end("length")
        wanted, retries = Wanted(ask.prompt_ids, sampling, ends, ask.adapter, ask.scale), 0
        while writing.choice is None:
            try:
                await self._follow(request, writing, wanted.after(writing.tokens))
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

    async def _follow(self, request: _Request, writing: Writing, wanted: Wanted) -> None:
        async with aclosing(self._server.answer(wanted)) as saying:
            async for said in saying:
                if isinstance(said, Ended):
                    writing.end(said.reason)
                    return
                self._measure(request, writing)
                if not self._take(writing, said, wanted.sampling):
                    return
                await self._let_read(request)
        raise BackendUnreachableError(f"{self.kind} ended an answer without saying why")

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

    def _measure(self, request: _Request, writing: Writing) -> None:
        now = time.monotonic()
        if request.first_token_at is None:
            request.first_token_at = now
            self._measures.prompt_read(len(request.generation.ask.prompt_ids))
            self._measures.first_token(now - request.generation.submitted_at)
        elif writing.completion_tokens:
            self._measures.token(now - writing.token_at)
        writing.token_at = now

    async def _let_read(self, request: _Request) -> None:
        """Wait for a reader that is behind; the server waits too, once what is between is full."""
        while request.generation.waits_for_reader:
            request.changed.clear()
            if not request.generation.waits_for_reader:
                return
            try:
                async with asyncio.timeout(_SLOWEST_READER_SECONDS):
                    await request.changed.wait()
            except TimeoutError as error:
                raise SlowReaderError(
                    f"nothing of this answer was taken for {_SLOWEST_READER_SECONDS:.0f} s, so it was given up; ask "
                    "again, and read the stream as it comes, or ask without one"
                ) from error

    # How it ends.

    def _finish(self, request: _Request) -> None:
        generation, began = request.generation, request.admitted_at
        if began is None or not request.writings:
            result = never_begun(generation)
        else:
            result = GenerationResult(
                choices=tuple(writing.choice for writing in request.writings if writing.choice is not None),
                prompt_tokens=len(generation.ask.prompt_ids),
                waited_seconds=began - generation.submitted_at,
                seconds=time.monotonic() - began,
            )
        self._measures.finished(result)
        generation.publish(result)

    def _cut_short(self, request: _Request) -> None:
        """Its reader went away, or the service stops."""
        if request.admitted_at is None and not request.generation.cancelled:
            self._fail(request, NotReadyError("the service is stopping"))
            return
        for writing in request.writings:
            if writing.choice is None:
                writing.end("cancelled")
        self._finish(request)

    def _fail(self, request: _Request, error: Exception) -> None:
        self._measures.failed(aborted=isinstance(error, SlowReaderError))
        request.generation.publish(error.with_traceback(None))


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """`work`, and once more some seconds after a fault that nobody foresaw."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("the back end is kept up anew", extra={"action": "backend_failed"})
        await asyncio.sleep(_UPKEEP_SECONDS)


def _keys(generations: Sequence[Generation]) -> tuple[str, ...]:
    return tuple({one.ask.adapter.key for one in generations if one.ask.adapter is not None})


async def _cancelled(tasks: Sequence[asyncio.Task[Any] | None]) -> None:
    """Cancel those that have not ended, and wait for all; what they came to is known elsewhere."""
    running: list[Awaitable[Any]] = []
    for task in tasks:
        if task is not None:
            task.cancel()
            running.append(task)
    await asyncio.gather(*running, return_exceptions=True)
