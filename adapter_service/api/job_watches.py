"""One reader for all who follow a job: it looks twice a second, for as long as somebody follows.

Where a job stands depends on more than its row (its place in the queue, whether the base is loaded), and
the log is a file: so both are read and compared. A running job is reported no more often than that anyway.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from adapter_service.api.job_answers import job_answer
from adapter_service.api.services import Services
from adapter_service.api.sse import KEEP_ALIVE_SECONDS
from adapter_service.errors import NotReadyError
from adapter_service.jobs.job import JobEvent
from adapter_service.jobs.logs import LogPage

READ_SECONDS = 0.5
# Whoever is further behind reads the file itself.
KEPT_LINES = 1000


@dataclass(frozen=True, slots=True)
class Moment:
    """A job as it was at one reading; equal moments have nothing new.

    `status` is its `JobAnswer` in JSON; `log` are the last lines. `complete`: the job is finished, and
    neither will change again.
    """

    status: str
    moves: tuple[JobEvent, ...]
    log: LogPage
    complete: bool

    @property
    def digest(self) -> str:
        """Names `status` in an event's id."""
        return hashlib.sha256(self.status.encode()).hexdigest()[:12]


class Watch:
    """The moments of one job, for any number of followers. On the event loop alone."""

    def __init__(self, read: Callable[[], Moment], read_seconds: float, keep_alive_seconds: float) -> None:
        self.followers = 0
        self._read = read
        self._read_seconds = read_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._latest: Moment | None = None
        self._error: Exception | None = None
        self._over = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._look())

    async def moments(self) -> AsyncIterator[Moment | None]:
        """The job as it is, then whenever it has changed; ends after a complete moment, and when the service ends.

        Whoever takes long gets the newest next. None whenever nothing came for `keep_alive_seconds`.

        Raises:
            Exception: whatever kept the job from being read.
        """
        given: Moment | None = None
        while not self._over:
            news = self._news
            if self._error is not None:
                raise self._error
            if (latest := self._latest) is not given and latest is not None:
                given = latest
                yield given
                if given.complete:
                    return
                continue
            try:
                async with asyncio.timeout(self._keep_alive_seconds):
                    await news.wait()
            except TimeoutError:
                yield None

    def end(self) -> None:
        """Nobody follows any more, or the service ends."""
        self._over = True
        self._task.cancel()
        self._tell()

    async def _look(self) -> None:
        try:
            while self._latest is None or not self._latest.complete:
                moment = await run_in_threadpool(self._read)
                if moment != self._latest:
                    self._latest = moment
                    self._tell()
                await asyncio.sleep(self._read_seconds)
        except Exception as error:  # noqa: BLE001 - raised where the moments are asked for
            self._error = error
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Watches:
    """The watches of this process, one for each job that somebody follows. On the event loop alone."""

    def __init__(
        self,
        services: Services,
        *,
        read_seconds: float = READ_SECONDS,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._services = services
        self._seconds = read_seconds, keep_alive_seconds
        self._watches: dict[str, Watch] = {}
        self._closed = False

    @asynccontextmanager
    async def on(self, job_id: str) -> AsyncIterator[Watch]:
        """The watch of a job, with one follower more as long as the block runs."""
        watch = self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = Watch(_reader(self._services, job_id), *self._seconds)
        if self._closed:
            watch.end()
        watch.followers += 1
        try:
            yield watch
        finally:
            watch.followers -= 1
            if not watch.followers:
                watch.end()
                self._watches.pop(job_id, None)

    def check_open(self) -> None:
        """NotReadyError when the service is about to end."""
        if self._closed:
            raise NotReadyError("the service is stopping; follow again when it has been started")

    def close(self) -> None:
        """End every stream that follows a job, and begin no other: the process was asked to end."""
        self._closed = True
        for watch in self._watches.values():
            watch.end()

    def __len__(self) -> int:
        return len(self._watches)


def _reader(services: Services, job_id: str) -> Callable[[], Moment]:
    tail = services.logs.newest(job_id, KEPT_LINES)

    def read() -> Moment:
        job = services.jobs.get(job_id)
        # In this order: the log's last line is written after the row, and before the runner lets go of the job.
        complete = job.status.finished and services.runner.attempting != job_id
        return Moment(
            status=job_answer(job, services).model_dump_json(),
            moves=services.jobs.events(job_id),
            log=tail.read(to_the_end=complete),
            complete=complete,
        )

    return read


async def _watches_of(request: Request) -> Watches:
    watches: Watches = request.app.state.watches
    return watches


Watching = Annotated[Watches, Depends(_watches_of)]
