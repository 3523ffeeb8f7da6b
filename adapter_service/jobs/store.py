"""The job table: every move of every job, each a compare-and-set with its event in one transaction.

A writer hands in the job as it knows it; if the row has meanwhile another status or attempt, the
writer was superseded and nothing is written. Not here: throttling of progress, threads, files.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from adapter_service.database import Database
from adapter_service.errors import (
    BusyError,
    DamagedJobError,
    DuplicateRequestError,
    JobCancelledError,
    SupersededError,
    UnknownJobError,
    WrongJobStateError,
)
from adapter_service.jobs.job import MAX_CRASHES, Job, JobEvent, JobStatus, Phase, new_job_id
from adapter_service.jobs.measured import METRICS, is_worth_an_event, measured_at
from adapter_service.jobs.rows import CLAIMABLE, INSERT, SELECT, UPDATE, encode, to_columns, to_event, to_job

logger = logging.getLogger(__name__)

# A report is made on the thread that answers requests, and the next one says the same again.
REPORT_WAIT_SECONDS = 3.0

_ANOTHER = ": to train again, ask for another"
_WAITING = (JobStatus.QUEUED, JobStatus.PAUSED)
_COUNT_WAITING = "SELECT count(*) FROM jobs WHERE status IN (?, ?) AND (node_id IS NOT NULL) = ?"
_BY_KEY = "SELECT * FROM jobs WHERE idempotency_key = ?"


class JobStore:
    """Jobs in the database; safe to share between threads. `now` gives aware UTC times."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now
        self._when_ended: Callable[[sqlite3.Connection, Job], None] = lambda _, __: None

    def when_ended(self, follow: Callable[[sqlite3.Connection, Job], None]) -> None:
        """Call `follow` with every job that ends, inside the transaction in which it does; set it before the start."""
        self._when_ended = follow

    def create(
        self,
        request: Mapping[str, Any],
        *,
        adapter: str,
        trace_id: str,
        queue_limit: int,
        idempotency_key: str | None = None,
        asked: Mapping[str, Any] | None = None,
        also: Callable[[sqlite3.Connection], None] = lambda _: None,
    ) -> Job:
        """A new queued job; for a key that was used before with the same body, the job it made then.

        What has to be true when the job is written is checked by `also`, in its transaction; what that raises
        leaves no job.

        Raises:
            BusyError: `queue_limit` jobs wait already.
            DuplicateRequestError: the key was used before with another body.
        """
        with self._database.transaction() as connection:
            if idempotency_key and (earlier := _by_key(connection, idempotency_key)):
                return _same_request(earlier, idempotency_key, adapter, request, asked)
            check_room(connection, queue_limit)
            also(connection)
            now = self._now()
            job = Job(new_job_id(now), adapter, request, trace_id, now, asked=asked)
            return self.insert(connection, job, idempotency_key=idempotency_key)

    def insert(self, connection: sqlite3.Connection, job: Job, *, idempotency_key: str | None = None) -> Job:
        """Write a new job, inside somebody's transaction."""
        connection.execute(INSERT, to_columns(job) | {"idempotency_key": idempotency_key})
        self._event(connection, job, JobStatus.QUEUED)
        return _get(connection, job.id)

    def made_by(
        self, idempotency_key: str, request: Mapping[str, Any], adapter: str, asked: Mapping[str, Any] | None = None
    ) -> Job | None:
        """The job that this key made before; None for a new key.

        Raises:
            DuplicateRequestError: it made it from another request.
        """
        rows = self._database.read(_BY_KEY, (idempotency_key,))
        return _same_request(to_job(rows[0]), idempotency_key, adapter, request, asked) if rows else None

    def get(self, job_id: str) -> Job:
        """The job as it is now.

        Raises:
            UnknownJobError: there is none.
            DamagedJobError: its row cannot be read.
        """
        return _one(self._database.read(SELECT, (job_id,)), job_id)

    def list(self, *, status: JobStatus | None = None, limit: int = 100) -> tuple[Job, ...]:
        """Newest first, without those whose rows cannot be read."""
        rows = self._database.read(
            "SELECT * FROM jobs WHERE :status IS NULL OR status = :status ORDER BY number DESC LIMIT :limit",
            {"status": status, "limit": limit},
        )
        return tuple(_readable(rows))

    def events(self, job_id: str) -> tuple[JobEvent, ...]:
        """What happened to one job, oldest first, without what was measured on the way."""
        rows = self._database.read(
            "SELECT * FROM job_events WHERE job_id = ? AND kind != ? ORDER BY number", (job_id, METRICS)
        )
        return tuple(map(to_event, rows))

    def queue_depth(self) -> int:
        """How many jobs wait, paused ones included: they hold their places."""
        return int(self._database.read("SELECT count(*) FROM jobs WHERE status IN (?, ?)", _WAITING)[0][0])

    def counts(self) -> dict[JobStatus, int]:
        """How many jobs have each status; those that nobody has are there with 0."""
        rows = self._database.read("SELECT status, count(*) AS jobs FROM jobs GROUP BY status")
        found = {row["status"]: int(row["jobs"]) for row in rows}
        return {status: found.get(status, 0) for status in JobStatus}

    def unfinished_ids(self) -> frozenset[str]:
        rows = self._database.read("SELECT id FROM jobs WHERE status IN (?, ?, ?)", (*_WAITING, JobStatus.RUNNING))
        return frozenset(row["id"] for row in rows)

    def position(self, job_id: str) -> int | None:
        """1 for the job that is claimed next; None for one that is not queued."""
        ids = [row["id"] for row in self._database.read(CLAIMABLE)]
        return ids.index(job_id) + 1 if job_id in ids else None

    def claim_next(self) -> Job | None:
        """Start the first job that can be: it is running, one attempt further, and the caller's alone.

        That is the oldest of the highest priority; of a node's two the one that has begun already.
        """
        with self._database.transaction() as connection:
            job = next(_readable(connection.execute(CLAIMABLE)), None)
            if job is None:
                return None
            started = job.moved(JobStatus.RUNNING, attempt=job.attempt + 1, started_at=job.started_at or self._now())
            return self._write(connection, job, started, event=JobStatus.RUNNING)

    def progress(
        self,
        job: Job,
        *,
        phase: Phase | None = None,
        step: int | None = None,
        total_steps: int | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Job:
        """Write where the running `job` is; what is not given stays, metrics are merged.

        Raises:
            SupersededError: this attempt is over.
            sqlite3.OperationalError: others hold the database for longer than a report is worth.
        """
        with self._database.transaction(wait_seconds=REPORT_WAIT_SECONDS) as connection:
            current = _fenced(connection, job)
            changed = replace(
                current,
                phase=phase or current.phase,
                step=current.step if step is None else step,
                total_steps=current.total_steps if total_steps is None else total_steps,
                progress={**current.progress, **(metrics or {})},
            )
            if is_worth_an_event(current, changed):
                self._event(connection, changed, METRICS, measured_at(changed))
            event = f"phase:{phase}" if phase and phase != current.phase else None
            return self._write(connection, current, changed, event=event)

    def succeed(self, job: Job, result: Mapping[str, Any]) -> Job:
        return self._finish(job, JobStatus.SUCCEEDED, result=result)

    def fail(self, job: Job, code: str, message: str) -> Job:
        return self._finish(job, JobStatus.FAILED, error_code=code, error_message=message)

    def cancelled(self, job: Job) -> Job:
        """The running `job` has stopped because it was asked to."""
        return self._finish(job, JobStatus.CANCELLED, cancel_requested=True)

    def put_back(self, job: Job) -> Job:
        """The running `job` has stopped before its end, through no fault of its own: it queues again.

        It keeps its place. One that was asked to stop is cancelled or paused, as it was asked.
        """
        with self._database.transaction() as connection:
            return self._put_back(connection, _fenced(connection, job))

    def broke_off(self, job: Job, code: str, message: str) -> Job:
        """The running `job` met an error that nobody foresaw: it queues again, as after a crash.

        The attempt that is one too many fails, with `code` and `message`.
        """
        with self._database.transaction() as connection:
            current = _fenced(connection, job)
            return self._broken_off(connection, replace(current, crashes=current.crashes + 1), code, message)

    def requeue_interrupted(self) -> tuple[Job, ...]:
        """At start, before any claim: put back every job that a dead process left running.

        One under which `MAX_CRASHES` processes died fails instead.
        """
        with self._database.transaction() as connection:
            jobs = tuple(_readable(_rows_of(connection, JobStatus.RUNNING)))
            return tuple(self._crashed(connection, replace(job, crashes=job.crashes + 1)) for job in jobs)

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a waiting job at once; ask a running one to stop (again is harmless).

        Raises:
            WrongJobStateError: the job is finished.
        """
        with self._database.transaction() as connection:
            job = _get(connection, job_id)
            if job.status.finished:
                raise WrongJobStateError(
                    f"{job_id} is {job.status}; only a job that is not finished can be cancelled{_ANOTHER}"
                )
            return self.cancel(connection, job)

    def cancel(self, connection: sqlite3.Connection, job: Job) -> Job:
        """End a waiting job, ask a running one to stop, inside somebody's transaction."""
        if job.status is JobStatus.RUNNING:
            event = None if job.cancel_requested else "cancel_requested"
            return self._write(connection, job, replace(job, cancel_requested=True), event=event)
        stopped = job.moved(JobStatus.CANCELLED, cancel_requested=True, finished_at=self._now())
        return self._write(connection, job, stopped, event=JobStatus.CANCELLED)

    def check_wanted(self, connection: sqlite3.Connection, job: Job) -> None:
        """That the running `job` was not cancelled, inside the transaction of what it is about to do for good.

        Raises:
            JobCancelledError: it was.
            SupersededError: this attempt is over.
        """
        if _fenced(connection, job).cancel_requested:
            raise JobCancelledError(f"{job.id} was cancelled; nothing goes live")

    def request_pause(self, job_id: str) -> Job:
        """Hold a waiting job back; ask a running one to stop until it is resumed (again is harmless).

        Raises:
            WrongJobStateError: the job is finished, or was asked to stop for good.
        """
        with self._database.transaction() as connection:
            job = _get(connection, job_id)
            if job.status.finished or job.cancel_requested:
                stands = job.status if job.status.finished else "being cancelled"
                raise WrongJobStateError(f"{job_id} is {stands}; only a job that waits or runs can be paused{_ANOTHER}")
            if job.status is JobStatus.QUEUED:
                return self._write(connection, job, job.moved(JobStatus.PAUSED), event=JobStatus.PAUSED)
            if job.status is JobStatus.PAUSED or job.pause_requested:
                return job
            return self._write(connection, job, replace(job, pause_requested=True), event="pause_requested")

    def request_resume(self, job_id: str) -> Job:
        """Put a paused job back into the queue, at its old place; what waits or runs already is left to it.

        Raises:
            WrongJobStateError: the job is finished.
        """
        with self._database.transaction() as connection:
            job = _get(connection, job_id)
            if job.status.finished:
                raise WrongJobStateError(f"{job_id} is {job.status}; only a paused job can be resumed{_ANOTHER}")
            if job.status is JobStatus.PAUSED:
                return self._write(connection, job, job.moved(JobStatus.QUEUED), event=JobStatus.QUEUED)
            if job.pause_requested:
                return self._write(connection, job, replace(job, pause_requested=False), event="pause_withdrawn")
            return job

    def stop_requested(self, job: Job) -> bool:
        """Whether the running `job` shall stop, for good or for a while; asked over and over by `JobContext`.

        Raises:
            SupersededError: this attempt is over.
        """
        rows = self._database.read(
            "SELECT cancel_requested OR pause_requested FROM jobs WHERE id = ? AND status = ? AND attempt = ?",
            (job.id, job.status, job.attempt),
        )
        if not rows:
            raise _superseded(job)
        return bool(rows[0][0])

    def _finish(self, job: Job, status: JobStatus, **outcome: Any) -> Job:
        with self._database.transaction() as connection:
            current = _fenced(connection, job)
            finished = current.moved(status, finished_at=self._now(), pause_requested=False, **outcome)
            return self._write(connection, current, finished, event=status)

    def _crashed(self, connection: sqlite3.Connection, job: Job) -> Job:
        times = f"{job.crashes} times" if job.crashes > 1 else "once"
        message = f"it broke off {times}, the last time because the service died; read its log, then submit it again"
        return self._broken_off(connection, job, "interrupted", message)

    def _broken_off(self, connection: sqlite3.Connection, job: Job, code: str, message: str) -> Job:
        """`job`, whose `crashes` count this time already, once more or for good."""
        if job.cancel_requested or job.crashes < MAX_CRASHES:
            return self._put_back(connection, job)
        outcome = {"error_code": code, "error_message": message}
        failed = job.moved(JobStatus.FAILED, finished_at=self._now(), pause_requested=False, **outcome)
        return self._write(connection, job, failed, event=failed.status)

    def _put_back(self, connection: sqlite3.Connection, job: Job) -> Job:
        if job.cancel_requested:
            moved = job.moved(JobStatus.CANCELLED, finished_at=self._now(), pause_requested=False)
        else:
            status = JobStatus.PAUSED if job.pause_requested else JobStatus.QUEUED
            moved = job.moved(status, phase=None, pause_requested=False)
        return self._write(connection, job, moved, event=moved.status)

    def _write(self, connection: sqlite3.Connection, before: Job, after: Job, *, event: str | None) -> Job:
        guard = {"status_before": before.status, "attempt_before": before.attempt}
        if connection.execute(UPDATE, to_columns(after) | guard).rowcount != 1:
            raise _superseded(before)
        if event is not None:
            self._event(connection, after, event)
        written = _get(connection, after.id)
        if written.status.finished:
            self._when_ended(connection, written)
        return written

    def _event(
        self, connection: sqlite3.Connection, job: Job, kind: str, data: Mapping[str, Any] | None = None
    ) -> None:
        connection.execute(
            "INSERT INTO job_events (job_id, attempt, kind, at, data) VALUES (?, ?, ?, ?, ?)",
            (job.id, job.attempt, kind, self._now().isoformat(), encode(data)),
        )


def _get(connection: sqlite3.Connection, job_id: str) -> Job:
    return _one(connection.execute(SELECT, (job_id,)).fetchall(), job_id)


def _rows_of(connection: sqlite3.Connection, status: JobStatus) -> list[sqlite3.Row]:
    """Oldest first."""
    return connection.execute("SELECT * FROM jobs WHERE status = ? ORDER BY number", (status,)).fetchall()


def _readable(rows: Iterable[sqlite3.Row]) -> Iterator[Job]:
    """The jobs of `rows`; a row that is none (edited by hand, damaged) holds up no other."""
    for row in rows:
        try:
            yield to_job(row)
        except DamagedJobError:
            logger.exception("the row of %s cannot be read and is passed over", row["id"])


def _one(rows: Sequence[sqlite3.Row], job_id: str) -> Job:
    if not rows:
        raise UnknownJobError(f"no job {job_id!r}; the id is `job_id` in the answer to the training request")
    return to_job(rows[0])


def _fenced(connection: sqlite3.Connection, job: Job) -> Job:
    """The row as it is now, if `job` is still the attempt that may write it."""
    current = _get(connection, job.id)
    if (current.status, current.attempt) != (job.status, job.attempt):
        raise _superseded(job)
    return current


def _superseded(job: Job) -> SupersededError:
    return SupersededError(f"attempt {job.attempt} of {job.id} is no longer {job.status}; nothing was written")


def check_room(connection: sqlite3.Connection, queue_limit: int, *, of_nodes: bool = False) -> None:
    """Raise BusyError where so many jobs wait already, of nodes or of all others: neither takes the others' places."""
    waiting = connection.execute(_COUNT_WAITING, (*_WAITING, of_nodes)).fetchone()[0]
    if waiting >= queue_limit:
        raise BusyError(
            f"{waiting} jobs wait and the queue holds {queue_limit}; try again later, or cancel one",
            retry_after_seconds=60,
        )


def _by_key(connection: sqlite3.Connection, idempotency_key: str) -> Job | None:
    row = connection.execute(_BY_KEY, (idempotency_key,)).fetchone()
    return None if row is None else to_job(row)


def _same_request(
    earlier: Job, key: str, adapter: str, request: Mapping[str, Any], asked: Mapping[str, Any] | None
) -> Job:
    before = (earlier.adapter, encode(earlier.request), encode(earlier.asked))
    if before != (adapter, encode(request), encode(asked)):
        raise DuplicateRequestError(
            f"idempotency key {key!r} already made {earlier.id} from another request; "
            "send the same request again, or a new key"
        )
    return earlier
