"""Jobs and their events as lists that clients leaf through, newest first: a page is what follows a given one."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from adapter_service.database import Database, Parameters
from adapter_service.errors import DamagedJobError, NotFoundError, UnknownJobError
from adapter_service.jobs.job import Job, JobEvent
from adapter_service.jobs.rows import to_event, to_job

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A job has the metadata when each pair of the wish is among its own. What is no JSON was edited by hand.
_JOBS = """
    WITH told AS (SELECT *, CASE WHEN json_valid(asked) THEN json_extract(asked, '$.metadata') END AS own FROM jobs)
    SELECT * FROM told
    WHERE number < coalesce(:before, number + 1)
        AND node_id IS NULL
        AND (own IS NULL OR NOT :without)
        AND NOT EXISTS (
            SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
                SELECT 1 FROM json_each(told.own) AS pair WHERE pair.key = wanted.key AND pair.value = wanted.value
            )
        )
    ORDER BY number DESC LIMIT :limit"""
_EVENTS = """
    SELECT * FROM job_events WHERE job_id = :job_id AND number < coalesce(:before, number + 1)
    ORDER BY number DESC LIMIT :limit"""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`has_more` says whether something follows the last of `items`."""

    items: tuple[T, ...]
    has_more: bool


class JobHistory:
    """Reads what `JobStore` writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(
        self, *, after: str | None, limit: int, metadata: Mapping[str, str], without_metadata: bool = False
    ) -> Page[Job]:
        """Jobs that have all pairs of `metadata`, or only those that have none at all; no node's.

        Rows that cannot be read are passed over.

        Raises:
            UnknownJobError: there is no job `after`.
        """
        before = None if after is None else self._number_of(after)
        wanted = {"before": before, "metadata": json.dumps(metadata), "without": without_metadata}
        rows, has_more = self._page(_JOBS, wanted, limit)
        return Page(tuple(job for row in rows if (job := _readable(row)) is not None), has_more)

    def events(self, job_id: str, *, after: int | None, limit: int) -> Page[JobEvent]:
        """Events of one job, what was measured on the way included; `after` is an event's number.

        Raises:
            NotFoundError: the job has no event `after`.
        """
        if after is not None:
            known = self._database.read("SELECT 1 FROM job_events WHERE job_id = ? AND number = ?", (job_id, after))
            if not known:
                raise NotFoundError(
                    f"{job_id} has no event of number {after}; leave 'after' out to begin at the newest"
                )
        rows, has_more = self._page(_EVENTS, {"job_id": job_id, "before": after}, limit)
        return Page(tuple(map(to_event, rows)), has_more)

    def _page(self, sql: str, parameters: Mapping[str, object], limit: int) -> tuple[list[sqlite3.Row], bool]:
        asked: Parameters = {**parameters, "limit": limit + 1}
        rows = self._database.read(sql, asked)
        return rows[:limit], len(rows) > limit

    def _number_of(self, job_id: str) -> int:
        rows = self._database.read("SELECT number FROM jobs WHERE id = ?", (job_id,))
        if not rows:
            raise UnknownJobError(f"no job {job_id!r} to go on after; leave 'after' out to begin at the newest")
        return int(rows[0]["number"])


def _readable(row: sqlite3.Row) -> Job | None:
    try:
        return to_job(row)
    except DamagedJobError:
        logger.exception("the row of %s cannot be read and is passed over", row["id"])
        return None
