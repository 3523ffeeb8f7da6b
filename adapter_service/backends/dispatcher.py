"""Requests to a server of others: they wait here, are asked there, and are told as they are answered.

One thread has an event loop and everything on it: a task for each request, one for the server's own upkeep, and one
that keeps live versions loaded. Other threads hand over requests and read what is counted.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from adapter_service.backends.following import Following, cancel_all
from adapter_service.backends.held_adapters import HeldAdapters
from adapter_service.backends.server import Server
from adapter_service.engine.generations import Generation
from adapter_service.engine.measures import Measures, Reading
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.residency import Residency
from adapter_service.errors import (
    AdapterServiceError,
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
_LOOK_AT_LIVE_SECONDS = 15.0
_METRICS_SECONDS = 2.0
_UPKEEP_SECONDS = 5.0
_STOP_SECONDS = 8.0


class Dispatcher:
    """`live` gives the versions of a base that are live now, the latest first; it may wait for a database."""

    def __init__(self, server: Server, settings: ServingSettings, live: FindLive) -> None:
        self._server = server
        self._live = live
        self._queue_size = settings.queue_size
        self._residency: Residency[None] = Residency(settings.max_adapters, settings.max_adapter_bytes)
        self._lock = threading.Lock()
        self._waiting: set[Generation] = set()
        self._requests: dict[Generation, tuple[Following, asyncio.Task[None]]] = {}
        self._answers: Callable[[], None] = lambda: None
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
        return sum(generation.ask.count for generation in self._running())

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
            running_adapters=_keys(running),
            waiting_adapters=_keys(waiting),
        )

    def when_answering(self, listener: Callable[[], None]) -> None:
        self._answers = listener

    def start(self, base: BaseModel, measures: Measures) -> None:
        self._base, self._measures = base, measures
        begun = threading.Event()
        with self._lock:
            if self._stopping:
                return
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

    def _running(self) -> list[Generation]:
        requests = tuple(self._requests.items())
        return [generation for generation, (following, _) in requests if following.admitted_at is not None]

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NotReadyError("the service is stopping")

    def _soon(self, action: Callable[..., object], *args: Any) -> None:
        """On the loop, if there is one and it still runs."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has just been closed
                self._loop.call_soon_threadsafe(action, *args)

    def _wait_for(self, action: Callable[[], Coroutine[Any, Any, T]], timeout_seconds: float | None = None) -> T:
        """What comes of `action` on the loop; the end of the loop ends it.

        Raises:
            NotReadyError: the service is stopping.
            TimeoutError: it took longer.
        """
        with self._lock:  # as in `submit`
            self._refuse_when_stopping()
            if self._loop is None:
                raise BackendUnreachableError("the base is not ready yet")
            future = asyncio.run_coroutine_threadsafe(action(), self._loop)
        try:
            return future.result(timeout_seconds)
        except concurrent.futures.CancelledError as error:
            raise NotReadyError("the service is stopping") from error
        except TimeoutError:
            future.cancel()
            raise

    # On the loop.

    async def _run(self, begun: threading.Event) -> None:
        self._ended = asyncio.Event()
        self._drains: list[asyncio.Task[None]] = []
        self._looks = asyncio.Event()
        self._places = asyncio.Semaphore(self._server.places)
        self._taking_places = asyncio.Lock()
        self._held = HeldAdapters(self._server, self._residency, self._measures.adapter_loaded)
        self._loop = asyncio.get_running_loop()
        begun.set()
        upkeep = [
            asyncio.create_task(_kept_up(lambda: self._server.run(self._base, self._now_answering))),
            asyncio.create_task(_kept_up(self._keep_live_loaded)),
        ]
        await self._ended.wait()
        await cancel_all(upkeep)
        await self._held.close()
        await self._server.close()

    async def _keep_live_loaded(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AT_LIVE_SECONDS):
                    await self._looks.wait()
            self._looks.clear()
            if self._server.fault is None and (live := await self._found_live()) is not None:
                await self._held.keep_live(live)

    async def _found_live(self) -> Sequence[AdapterFiles] | None:
        """None where that is not known: then what is loaded stays."""
        try:
            return await asyncio.to_thread(self._live, self._base.identity)
        except Exception:
            log.exception("which versions are live is not known", extra={"action": "live_unknown"})
            return None

    def _now_answering(self) -> None:
        self._look_again()
        self._answers()

    def _look_again(self) -> None:
        self._looks.set()

    def _end(self, drain_seconds: float) -> None:
        if self._ended.is_set():
            return  # the loop may close before it takes up another task
        self._drains.append(asyncio.create_task(self._drain(drain_seconds)))  # the loop itself forgets its tasks

    async def _drain(self, seconds: float) -> None:
        tasks = [task for _, task in self._requests.values()]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        await cancel_all(tasks)
        self._ended.set()

    def _begin(self, generation: Generation) -> None:
        following = Following(generation, self._server, self._base, self._measures)
        self._requests[generation] = following, asyncio.create_task(self._answer(following))

    def _changed(self, generation: Generation) -> None:
        if (known := self._requests.get(generation)) is None:
            return
        following, task = known
        following.changed.set()
        if generation.cancelled:
            # After its first step, which is on its way: a task that is cancelled before that never runs at all.
            asyncio.get_running_loop().call_soon(task.cancel)

    async def _answer(self, following: Following) -> None:
        generation = following.generation
        try:
            async with self._held.use(generation.ask.adapter), self._placed(generation.ask.count):
                with self._lock:
                    self._waiting.discard(generation)
                await following.write_all()
        except asyncio.CancelledError:
            self._cut_short(following)
        except AdapterServiceError as error:
            self._fail(following, error)
        except Exception as error:
            log.exception("an answer failed", extra={"action": "generation_failed"})
            self._fail(following, error)
        else:
            self._finish(following)
        finally:
            self._requests.pop(generation, None)
            with self._lock:
                self._waiting.discard(generation)

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

    # How it ends.

    def _finish(self, following: Following) -> None:
        result = following.result()
        self._measures.finished(result)
        following.generation.publish(result)

    def _cut_short(self, following: Following) -> None:
        """Its reader went away, or the service stops."""
        if following.admitted_at is None and not following.generation.cancelled:
            self._fail(following, NotReadyError("the service is stopping"))
            return
        following.cut_short()
        self._finish(following)

    def _fail(self, following: Following, error: Exception) -> None:
        self._measures.failed(aborted=isinstance(error, SlowReaderError))
        following.generation.publish(error.with_traceback(None))


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
