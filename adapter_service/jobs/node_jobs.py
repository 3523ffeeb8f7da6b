"""Jobs for the nodes of a home hub: of each node at most one that has begun and one that has not.

    submitted ─▶ the same is queued or runs ───────────────▶ that job (deduped)
              ├▶ the same was trained before ──────────────▶ that job, published again where it has to be (deduped)
              └▶ anything else ─▶ what the node had waiting is cancelled, what runs is asked to stop, and a new job

A change of `base_model_id` alone stops nothing that runs: the hub then wants both. What the table has to look like
afterwards is a constraint of the database (`database.m007_nodes`), whoever writes to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from adapter_service.commands.training_request import CommandTraining
from adapter_service.database import Database
from adapter_service.delivery import outbox
from adapter_service.delivery.outbox import NoticeKind
from adapter_service.errors import DamagedJobError, DuplicateRequestError, RateLimitedError
from adapter_service.jobs.job import Job, JobStatus, new_job_id
from adapter_service.jobs.rows import encode, to_job
from adapter_service.jobs.store import JobStore, check_room

_HOUR = timedelta(hours=1)
_PRIORITIES = {"normal": 0, "high": 1}
_SAME_CONTENT = "SELECT * FROM jobs WHERE content_key = ? ORDER BY number DESC"
_UNFINISHED = """
    SELECT * FROM jobs WHERE node_id = ? AND status IN ('queued', 'paused', 'running') ORDER BY number"""
_RECENT = "SELECT created_at FROM jobs WHERE node_id = ? AND created_at > ? ORDER BY number"
_OF_NODE = "SELECT * FROM jobs WHERE node_id = ? ORDER BY number DESC LIMIT ?"
_NODE_OF = "SELECT node_id FROM jobs WHERE adapter = ? AND node_id IS NOT NULL ORDER BY number DESC LIMIT 1"
_NAME = "INSERT OR IGNORE INTO job_aliases (alias, job_id) VALUES (?, ?)"
_CALL_BACK = "UPDATE job_aliases SET callback = ? WHERE alias = ?"
_IS_ON_ITS_WAY = "SELECT 1 FROM deliveries WHERE job_id = ? AND status = 'pending'"
_BY_ALIAS = "SELECT job_id FROM job_aliases WHERE alias = ?"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all nodes' jobs that wait, and of one node's within an hour."""

    queue: int
    per_hour: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """`replaced` had not begun and are cancelled now; what runs is only asked to."""

    job: Job
    deduped: bool
    replaced: tuple[Job, ...] = ()


class NodeJobs:
    """Submits to `store`, and finds what it has of a node."""

    def __init__(
        self, database: Database, store: JobStore, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._store = store
        self._now = now

    def submit(
        self,
        training: CommandTraining,
        content_key: str,
        *,
        trace_id: str,
        limits: Limits,
        bring: Callable[[sqlite3.Connection, Job], bool],
    ) -> Submitted:
        """One job for `training`, in one transaction.

        `bring` is asked of a job that made the same before whether its adapter is still there; it then sees to it,
        in this transaction, that it is live and the node gets it.

        Raises:
            RateLimitedError: the node has asked for too many within the hour.
            BusyError: too many jobs wait.
            DuplicateRequestError: the hub's id for the job was of another one.
        """
        with self._database.transaction() as connection:
            aliases = _aliases(training)
            if (named := self._by_alias(connection, aliases)) is not None:
                return Submitted(_same(named, content_key, training), deduped=True)
            job, deduped = self._same_content(connection, content_key, bring), True
            replaced = self._make_way(connection, training, content_key)
            if job is None:
                self._check_rate(connection, training.node_id, limits.per_hour)
                check_room(connection, limits.queue, of_nodes=True)
                job, deduped = self._insert(connection, training, content_key, trace_id), False
            connection.executemany(_NAME, [(alias, job.id) for alias in aliases])
            if deduped:
                self._call_back_too(connection, training, job)
            return Submitted(job, deduped, replaced)

    def id_of(self, name: str) -> str:
        """Our id of the job that a hub calls `name`; what nobody calls so is an id of ours, or of none."""
        rows = self._database.read(_BY_ALIAS, (name,))
        return str(rows[0]["job_id"]) if rows else name

    def node_of(self, adapter: str) -> str | None:
        """The node that had this adapter asked for last; None of an adapter that is no node's."""
        rows = self._database.read(_NODE_OF, (adapter,))
        return str(rows[0]["node_id"]) if rows else None

    def newest(self, node_id: str, *, limit: int = 20) -> tuple[Job, ...]:
        """A node's jobs, the newest first."""
        return tuple(job for row in self._database.read(_OF_NODE, (node_id, limit)) if (job := _read(row)) is not None)

    def _by_alias(self, connection: sqlite3.Connection, aliases: Sequence[str]) -> Job | None:
        rows = [row for alias in aliases if (row := connection.execute(_BY_ALIAS, (alias,)).fetchone()) is not None]
        return self._store.get(rows[0]["job_id"]) if rows else None

    def _same_content(
        self, connection: sqlite3.Connection, content_key: str, bring: Callable[[sqlite3.Connection, Job], bool]
    ) -> Job | None:
        for job in map(_read, connection.execute(_SAME_CONTENT, (content_key,)).fetchall()):
            if job is None:
                continue
            if not job.status.finished and not job.cancel_requested:
                return job
            if job.status is JobStatus.SUCCEEDED and bring(connection, job):
                return job
        return None

    def _call_back_too(self, connection: sqlite3.Connection, training: CommandTraining, job: Job) -> None:
        """Of a request that needs no job of its own: with the others when the job ends, or at once where it has."""
        if training.callback is None or training.external_id is None:
            return
        connection.execute(_CALL_BACK, (encode(training.callback), training.external_id))
        if job.status.finished and connection.execute(_IS_ON_ITS_WAY, (job.id,)).fetchone() is None:
            outbox.queue(connection, NoticeKind.CALLBACK, job.id, self._now(), alias=training.external_id)

    def _make_way(self, connection: sqlite3.Connection, training: CommandTraining, key: str) -> tuple[Job, ...]:
        """Cancel what the node's new snapshot makes pointless."""
        replaced = []
        for job in map(_read, connection.execute(_UNFINISHED, (training.node_id,)).fetchall()):
            if job is None or job.content_key == key or job.cancel_requested:
                continue
            if job.has_begun and training.differs_in_base_alone(CommandTraining.from_dict(job.request)):
                continue
            ended = self._store.cancel(connection, job)
            replaced += [ended] if ended.status.finished else []
        return tuple(replaced)

    def _check_rate(self, connection: sqlite3.Connection, node_id: str, most: int) -> None:
        now = self._now()
        recent = connection.execute(_RECENT, (node_id, (now - _HOUR).isoformat())).fetchall()
        if len(recent) >= most:
            free_at = datetime.fromisoformat(recent[len(recent) - most]["created_at"]) + _HOUR
            seconds = max(1, round((free_at - now).total_seconds()))
            raise RateLimitedError(
                f"node {node_id!r} has asked for {len(recent)} jobs within the hour and {most} are allowed "
                f"(commands.max_jobs_per_hour); the next in {seconds} s",
                retry_after_seconds=seconds,
            )

    def _insert(self, connection: sqlite3.Connection, training: CommandTraining, key: str, trace_id: str) -> Job:
        now = self._now()
        job = Job(
            new_job_id(now),
            training.adapter,
            training.to_dict(),
            trace_id,
            now,
            node_id=training.node_id,
            content_key=key,
            priority=_PRIORITIES[training.priority],
        )
        return self._store.insert(connection, job)


def _aliases(training: CommandTraining) -> list[str]:
    """What a repeated request is known by; a key is no name that a job is asked for by."""
    named = [] if training.external_id is None else [training.external_id]
    return named if training.idempotency_key is None else [*named, f"key:{training.idempotency_key}"]


def _same(job: Job, content_key: str, training: CommandTraining) -> Job:
    if job.content_key != content_key:
        raise DuplicateRequestError(
            f"job_id {training.external_id!r} or its idempotency_key was given to another job ({job.id}) already; send "
            "the same request again, or new ones"
        )
    return job


def _read(row: sqlite3.Row) -> Job | None:
    try:
        return to_job(row)
    except DamagedJobError:
        return None
