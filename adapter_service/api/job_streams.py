"""A job followed as server-sent events: its log line by line, or where it stands whenever that changes.

Every event has an id; whoever comes back with it in `Last-Event-ID` gets what follows, and nothing twice.
After the last event, `done`, such a client is told by 204 that nothing follows: a browser's EventSource
would come back for ever.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Header, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from adapter_service.api.job_watches import Watch, Watches
from adapter_service.api.openapi import event_stream, object_of, schema_of
from adapter_service.api.sse import HEADERS, or_problem, sse
from adapter_service.errors import InvalidParameterError
from adapter_service.jobs.job import Job
from adapter_service.jobs.logs import JobLogs, LogPage

DONE = "done"
_HEADER = "Last-Event-ID"
_ID_MEANS = "Id of the last event that was received, to go on behind it with `follow`; goes before `start`."
# The line's number. How many moves were told, and the digest of the status.
LogEventId = Annotated[str | None, Header(alias=_HEADER, pattern=f"^([0-9]{{1,9}}|{DONE})$", description=_ID_MEANS)]
StatusEventId = Annotated[
    str | None, Header(alias=_HEADER, pattern=f"^([0-9]{{1,9}}(-[0-9a-f]{{12}})?|{DONE})$", description=_ID_MEANS)
]

_PAGE_LINES = 500
# The service ends, not the job: a client shall come back when it has been started again.
_STOPPING = format_sse_event(comment="the service is stopping", retry=5000)

Events = Callable[[Watch], AsyncIterator[bytes]]

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_NOTHING: dict[int | str, dict[str, Any]] = {
    204: {"description": "`Last-Event-ID` is that of the last event: nothing follows."}
}
LOG_STREAM = _NOTHING | event_stream(
    "The page; with `follow`, events: `line` {line, text}, at the end `done` {job_id, status, total}, or `error`.",
    'event: line\ndata: {"line": 7, "text": "2026-03-01T12:00:00.000000Z step 40 of 140"}\nid: 7\n\n',
    line=object_of(line=_NUMBER, text=_TEXT),
    done=object_of(job_id=_TEXT, status=schema_of("JobStatus"), total=_NUMBER),
)
STATUS_STREAM = _NOTHING | event_stream(
    "Where it stands; with `follow`, events: `moved` {kind, attempt, at} for each move, `status` (as without "
    "`follow`) whenever it has changed, at the end `done` (the last one), or `error`.",
    'event: moved\ndata: {"kind": "running", "attempt": 1, "at": "2026-03-01T12:00:00+00:00"}\nid: 2\n\n',
    moved=object_of(kind=_TEXT, attempt=_NUMBER, at={"type": "string", "format": "date-time"}),
    status=schema_of("JobAnswer"),
    done=schema_of("JobAnswer"),
)


def follow_log(job: Job, logs: JobLogs, watches: Watches, start: int, last_event_id: str | None) -> Response:
    """The lines from `start`, or behind the last event; then each as it is written."""
    if last_event_id == DONE:
        return _nothing_follows(job)
    return FollowStream(watches, job.id, _log(logs, job.id, int(last_event_id) + 1 if last_event_id else start))


def follow_status(job: Job, watches: Watches, last_event_id: str | None) -> Response:
    """Where the job stands, unless the last event said just that; then whenever it changes."""
    if last_event_id == DONE:
        return _nothing_follows(job)
    told, _, digest = (last_event_id or "0").partition("-")
    return FollowStream(watches, job.id, _status(int(told), digest))


def refuse_event_id(last_event_id: str | None) -> None:
    """For an answer that is no stream."""
    if last_event_id is not None:
        raise InvalidParameterError(f"header '{_HEADER}' is for streams; add 'follow=true'", parameter=_HEADER)


def _nothing_follows(job: Job) -> Response:
    if not job.status.finished:
        raise InvalidParameterError(
            f"header '{_HEADER}' is {DONE!r}, and {job.id} is {job.status}; leave it out to follow the job",
            parameter=_HEADER,
        )
    return Response(status_code=204)


class FollowStream(EventSourceResponse):
    """The events that `events` makes of a job's moments; `error` with the problem where that fails."""

    def __init__(self, watches: Watches, job_id: str, events: Events) -> None:
        watches.check_open()
        super().__init__((), headers=HEADERS)
        self._watches, self._job_id, self._events = watches, job_id, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: one that was never begun has no `finally` to run.
        async with self._watches.on(self._job_id) as watch:
            self.body_iterator = or_problem(scope, self._events(watch))
            await super().__call__(scope, receive, send)


def _log(logs: JobLogs, job_id: str, start: int) -> Events:
    async def events(watch: Watch) -> AsyncIterator[bytes]:
        place = start
        async for moment in watch.moments():
            if moment is None:
                yield KEEPALIVE_COMMENT
                continue
            while place < moment.log.total:
                page = _kept(moment.log, place)
                if page is None:
                    page = await run_in_threadpool(logs.read, job_id, place, _PAGE_LINES)
                if not page.lines:
                    break
                yield b"".join(_line(number, text) for number, text in enumerate(page.lines, place))
                place += len(page.lines)
            if moment.complete:
                status = json.loads(moment.status)["status"]
                yield sse(DONE, {"job_id": job_id, "status": status, "total": moment.log.total}, DONE)
                return
        yield _STOPPING

    return events


def _status(told: int, digest: str) -> Events:
    async def events(watch: Watch) -> AsyncIterator[bytes]:
        known, shown = told, digest
        async for moment in watch.moments():
            if moment is None:
                yield KEEPALIVE_COMMENT
                continue
            for move in moment.moves[known:]:
                known += 1
                yield sse("moved", {"kind": move.kind, "attempt": move.attempt, "at": move.at.isoformat()}, known)
            if moment.complete:
                yield format_sse_event(event=DONE, data_str=moment.status, id=DONE)
                return
            if moment.digest != shown:
                shown = moment.digest
                yield format_sse_event(event="status", data_str=moment.status, id=f"{known}-{shown}")
        yield _STOPPING

    return events


def _kept(newest: LogPage, place: int) -> LogPage | None:
    """The lines in hand from `place` on; None when some of them are in the file alone."""
    if place < newest.start:
        return None
    return LogPage(place, newest.total, newest.lines[place - newest.start :])


def _line(number: int, text: str) -> bytes:
    return sse("line", {"line": number, "text": text}, number)
