"""Logs and status as server-sent events: complete, in order, resumable, and gone when the client is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adapter_service.api import create_app
from adapter_service.api.job_watches import KEPT_LINES, Watches
from adapter_service.api.services import Services
from adapter_service.jobs.job import Job, Phase
from tests.api.conftest import client_of
from tests.api.test_start import serving

WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One event as it came; a comment is an event without a name."""

    name: str | None
    data: Any
    id: str | None
    comment: str | None = None


def parsed(block: str) -> Sent:
    fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
    comment = next((line[2:] for line in block.split("\n") if line.startswith(":")), None)
    data = json.loads(fields["data"]) if "data" in fields else None
    return Sent(fields.get("event"), data, fields.get("id"), comment)


class Follower:
    """An ASGI client that takes one event after the other and goes away when it likes."""

    def __init__(self, app: FastAPI, path: str, last_event_id: str | None) -> None:
        self._app, self._path, self._last_event_id = app, path, last_event_id
        self._blocks: asyncio.Queue[str | None] = asyncio.Queue()
        self._asked, self._gone = False, asyncio.Event()
        self.status: int | None = None

    async def run(self) -> None:
        path, _, query = self._path.partition("?")
        headers = [(b"host", b"127.0.0.1")]
        if self._last_event_id is not None:
            headers.append((b"last-event-id", self._last_event_id.encode()))
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"}, "headers": headers,
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "root_path": "",
        }  # fmt: skip
        try:
            await self._app(scope, self._receive, self._send)
        finally:
            self._blocks.put_nowait(None)

    async def _receive(self) -> MutableMapping[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)
        for block in message.get("body", b"").decode().split("\n\n")[:-1]:
            self._blocks.put_nowait(block)

    async def next(self) -> Sent | None:
        """The next event; None at the end of the stream."""
        async with asyncio.timeout(WAIT_SECONDS):
            block = await self._blocks.get()
        return None if block is None else parsed(block)

    async def take(self, number: int) -> list[Sent]:
        return [event for _ in range(number) if (event := await self.next()) is not None]

    async def rest(self) -> list[Sent]:
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    def leave(self) -> None:
        self._gone.set()


@asynccontextmanager
async def following(app: FastAPI, path: str, last_event_id: str | None = None) -> AsyncIterator[Follower]:
    follower = Follower(app, path, last_event_id)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        follower.leave()
        async with asyncio.timeout(WAIT_SECONDS):
            await task


@pytest.fixture
def app(services: Services) -> Iterator[FastAPI]:
    """Looks often, so that the tests wait little."""
    app = create_app(services=services)
    app.state.watches = Watches(services, read_seconds=0.01)
    yield app
    assert len(app.state.watches) == 0, "somebody is still followed"


@pytest.fixture
def job(services: Services) -> Job:
    """A running one."""
    services.jobs.create({"adapter": "hindi", "source": "small"}, adapter="hindi", trace_id="t-1", queue_limit=9)
    job = services.jobs.claim_next()
    assert job is not None
    return job


def log_of(job: Job) -> str:
    return f"/adapter/logs/{job.id}?follow=true"


def status_of(job: Job) -> str:
    return f"/adapter/status/{job.id}?follow=true"


def texts(events: list[Sent]) -> list[str]:
    return [event.data["text"].split(" ", 1)[1] for event in events if event.name == "line"]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * WAIT_SECONDS):
            await test()

    asyncio.run(bounded())


def test_a_log_is_followed_line_by_line_until_the_job_has_ended(app: FastAPI, services: Services, job: Job) -> None:
    async def test() -> None:
        services.logs.append(job.id, "one\ntwo")
        async with following(app, log_of(job)) as follower:
            before = await follower.take(2)
            services.logs.append(job.id, "three")
            live = await follower.take(1)
            services.logs.append(job.id, "four")
            services.jobs.succeed(job, {})
            last = await follower.rest()
        assert texts([*before, *live, *last]) == ["one", "two", "three", "four"]
        assert [event.id for event in [*before, *live, *last]] == ["0", "1", "2", "3", "done"]
        assert last[-1] == Sent("done", {"job_id": job.id, "status": "succeeded", "total": 4}, "done")

    run(test)


def test_whoever_comes_back_gets_what_follows_and_nothing_twice(app: FastAPI, services: Services, job: Job) -> None:
    async def test() -> None:
        services.logs.append(job.id, "one\ntwo\nthree")
        async with following(app, log_of(job)) as follower:
            first = await follower.take(2)
        services.logs.append(job.id, "four")
        services.jobs.succeed(job, {})
        async with following(app, f"{log_of(job)}&start=0", first[-1].id) as follower:
            second = await follower.rest()
        assert texts(first + second) == ["one", "two", "three", "four"]
        async with following(app, log_of(job), second[-1].id) as follower:
            assert await follower.rest() == []
        assert follower.status == 204

    run(test)


def test_the_last_line_comes_before_the_end_although_it_is_written_after_the_row(
    app: FastAPI, services: Services, job: Job
) -> None:
    async def test() -> None:
        services.runner.attempting = job.id
        async with following(app, log_of(job)) as log, following(app, status_of(job)) as status:
            services.jobs.succeed(job, {})
            while (seen := await status.next()) is not None and seen.data.get("status") != "succeeded":
                pass  # once it was read, the row says so to everybody
            services.logs.append(job.id, "attempt 1 ended")
            services.runner.attempting = None
            ending = await log.rest()
        assert (texts(ending), ending[-1].name) == (["attempt 1 ended"], "done")

    run(test)


def test_every_move_is_told_once_and_the_status_whenever_it_changes(app: FastAPI, services: Services, job: Job) -> None:
    async def test() -> None:
        async with following(app, status_of(job)) as follower:
            first = await follower.take(3)
            services.jobs.progress(job, phase=Phase.TRAINING, step=3, total_steps=4)
            second = await follower.take(2)
        services.jobs.progress(job, phase=Phase.GATING, step=4)
        services.jobs.succeed(job, {"version": 2})
        async with following(app, status_of(job), second[-1].id) as follower:
            third = await follower.rest()
        told = [*first, *second, *third]
        assert [event.data["kind"] for event in told if event.name == "moved"] == [
            "queued", "running", "phase:training", "phase:gating", "succeeded",
        ]  # fmt: skip
        assert [[event.name for event in part] for part in (first, second, third)] == [
            ["moved", "moved", "status"],
            ["moved", "status"],
            ["moved", "moved", "done"],
        ]
        assert [event.data["step"] for event in told if event.name != "moved"] == [0, 3, 4]
        answer = client_of(services).get(f"/adapter/status/{job.id}").json()
        assert told[-1].data == answer

    run(test)


def test_a_status_that_is_known_is_not_told_again(app: FastAPI, services: Services, job: Job) -> None:
    async def test() -> None:
        async with following(app, status_of(job)) as follower:
            known = (await follower.take(3))[-1]
        async with following(app, status_of(job), known.id) as follower, following(app, log_of(job)) as log:
            while watching(app) < 2:
                await asyncio.sleep(0)
            services.logs.append(job.id, "news, but not of the status")
            await log.take(1)
            services.jobs.progress(job, step=1)
            (changed,) = await follower.take(1)
        assert (changed.name, changed.data["step"]) == ("status", 1)
        services.jobs.succeed(job, {})

    run(test)


def test_fifty_followers_share_one_reader(app: FastAPI, services: Services, job: Job) -> None:
    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow()) for _ in range(50)]
            while watching(app) < 50:
                await asyncio.sleep(0)
            assert len(app.state.watches) == 1
            services.logs.append(job.id, "for all")
            services.jobs.succeed(job, {})
        assert [texts(task.result()) for task in tasks] == [["for all"]] * 50

    async def follow() -> list[Sent]:
        async with following(app, log_of(job)) as follower:
            return await follower.rest()

    run(test)


def watching(app: FastAPI) -> int:
    return sum(watch.followers for watch in app.state.watches._watches.values())


def test_a_follower_far_behind_gets_every_line_from_the_file(app: FastAPI, services: Services, job: Job) -> None:
    async def test() -> None:
        wanted = [str(number) for number in range(2 * KEPT_LINES + 5)]
        services.logs.append(job.id, "\n".join(wanted))
        services.jobs.succeed(job, {})
        async with following(app, log_of(job)) as follower:
            assert texts(await follower.rest()) == wanted
        async with following(app, f"{log_of(job)}&start={2 * KEPT_LINES}") as follower:
            assert texts(await follower.rest()) == wanted[-5:]

    run(test)


def test_half_a_line_is_told_when_it_is_whole(app: FastAPI, services: Services, job: Job) -> None:
    async def test() -> None:
        services.logs.append(job.id, "one")
        path = services.logs._path(job.id)
        with path.open("a") as file:
            file.write("at half")
            file.flush()
            async with following(app, log_of(job)) as follower, following(app, status_of(job)) as status:
                (one,) = await follower.take(1)
                services.jobs.progress(job, step=1)
                while (seen := await status.next()) is not None and seen.data.get("step") != 1:
                    pass  # the log was read along with it
                file.write(" whole\n")
                file.flush()
                (two,) = await follower.take(1)
        assert (texts([one]), two.data["text"]) == (["one"], "at half whole")
        services.jobs.succeed(job, {})

    run(test)


def test_a_silent_stream_is_kept_alive(services: Services, job: Job) -> None:
    async def test() -> None:
        app = create_app(services=services)
        app.state.watches = Watches(services, read_seconds=0.01, keep_alive_seconds=0.05)
        async with following(app, log_of(job)) as follower:
            assert await follower.take(2) == [Sent(None, None, None, "ping")] * 2

    run(test)


def test_the_end_of_the_service_ends_every_stream_and_begins_no_other(
    app: FastAPI, services: Services, job: Job
) -> None:
    async def test() -> None:
        services.logs.append(job.id, "one")
        async with following(app, log_of(job)) as follower:
            await follower.take(1)
            app.state.watches.close()
            assert [event.comment for event in await follower.rest()] == ["the service is stopping"]
        async with following(app, log_of(job)) as follower:
            await follower.rest()
        assert follower.status == 503

    run(test)


def test_a_job_that_can_no_longer_be_read_is_a_problem_in_the_stream(
    app: FastAPI, services: Services, job: Job
) -> None:
    async def test() -> None:
        async with following(app, log_of(job)) as follower:
            services.logs.append(job.id, "one")
            await follower.take(1)
            with services.database.transaction() as connection:
                connection.execute("DELETE FROM job_events")
                connection.execute("DELETE FROM jobs")
            (problem,) = await follower.rest()
        assert (problem.name, problem.data["code"], problem.data["status"]) == ("error", "unknown_job", 404)

    run(test)


@pytest.mark.parametrize(
    ("path", "header", "status", "parameter"),
    [
        ("/adapter/logs/job_0?follow=true", None, 404, None),
        ("/adapter/status/job_0?follow=true", None, 404, None),
        ("{log}&limit=5", None, 422, "limit"),
        ("{log}", "1-x", 422, "Last-Event-ID"),
        ("{log}", "done", 422, "Last-Event-ID"),
        ("{status}", "done", 422, "Last-Event-ID"),
        ("{status}", "1-xyz", 422, "Last-Event-ID"),
        ("/adapter/logs/{job_id}", "1", 422, "Last-Event-ID"),
        ("/adapter/status/{job_id}", "1", 422, "Last-Event-ID"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_the_stream(
    client: TestClient, job: Job, path: str, header: str | None, status: int, parameter: str | None
) -> None:
    path = path.format(log=log_of(job), status=status_of(job), job_id=job.id)
    response = client.get(path, headers={} if header is None else {"Last-Event-ID": header})
    assert (response.status_code, response.json().get("parameter")) == (status, parameter)


def test_an_open_stream_does_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    # Its base cannot be loaded, so the job waits for ever; uvicorn would wait for the stream.
    environment = {
        **os.environ,
        "ADAPTER_STATE_DIR": str(tmp_path / "state"),
        "ADAPTER_MODEL__BASE": str(tmp_path / "no-such-base"),
    }
    with serving(environment) as (process, address):
        job_id = requests.post(f"{address}/adapter/train-lite", json={}, timeout=10).json()["job_id"]
        url = f"{address}/adapter/status/{job_id}?follow=true"
        with requests.get(url, stream=True, timeout=WAIT_SECONDS) as response:
            lines = response.iter_lines()
            assert next(lines) == b"event: moved"
            process.send_signal(signal.SIGTERM)
            assert b": the service is stopping" in list(lines)
        assert process.wait(20) in {0, -signal.SIGTERM}
