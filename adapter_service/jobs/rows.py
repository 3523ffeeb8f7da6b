"""A job as a row of the `jobs` table and back: times as ISO text in UTC, dictionaries as JSON."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from adapter_service.errors import DamagedJobError
from adapter_service.jobs.job import Job, JobEvent, JobStatus, Phase

# Half of a character's pair, which JSON can say and UTF-8 cannot: a message may quote what it found in a record.
_SURROGATE = re.compile("[\ud800-\udfff]")

SELECT = "SELECT * FROM jobs WHERE id = ?"
# A node's job that has not begun waits for the one that has: running, or put back and waiting for its next attempt.
CLAIMABLE = """
    SELECT * FROM jobs AS next WHERE status = 'queued' AND NOT (
        attempt = 0 AND node_id IS NOT NULL AND EXISTS (
            SELECT 1 FROM jobs AS begun WHERE begun.node_id = next.node_id
                AND (begun.status = 'running' OR (begun.status IN ('queued', 'paused') AND begun.attempt > 0))
        )
    )
    ORDER BY priority DESC, number"""
INSERT = """
    INSERT INTO jobs (
        id, adapter, request, trace_id, created_at, status, phase, attempt, crashes, cancel_requested,
        pause_requested, step, total_steps, progress, result, error_code, error_message, started_at, finished_at,
        asked, node_id, content_key, priority, idempotency_key
    ) VALUES (
        :id, :adapter, :request, :trace_id, :created_at, :status, :phase, :attempt, :crashes, :cancel_requested,
        :pause_requested, :step, :total_steps, :progress, :result, :error_code, :error_message,
        :started_at, :finished_at, :asked, :node_id, :content_key, :priority, :idempotency_key
    )"""
# Compare-and-set in one statement: two runners may both hold this job as queued, and only one may start it.
UPDATE = """
    UPDATE jobs SET
        status = :status, phase = :phase, attempt = :attempt, crashes = :crashes,
        cancel_requested = :cancel_requested, pause_requested = :pause_requested,
        step = :step, total_steps = :total_steps, progress = :progress, result = :result,
        error_code = :error_code, error_message = :error_message,
        started_at = :started_at, finished_at = :finished_at
    WHERE id = :id AND status = :status_before AND attempt = :attempt_before"""


def to_columns(job: Job) -> dict[str, Any]:
    return {field.name: encode(getattr(job, field.name)) for field in fields(job)}


def encode(value: Any) -> Any:
    """One field as SQLite keeps it; equal dictionaries give equal text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        value = json.dumps(_finite(value), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are kept as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def to_job(row: sqlite3.Row) -> Job:
    """The job of a row.

    Raises:
        DamagedJobError: the row was not written by this service, or something has happened to it since.
    """
    try:
        return _read(row)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedJobError(
            f"what the state database has of {row['id']} cannot be read ({type(error).__name__}: {error}); "
            "restore a backup of the database, or submit the job again: other jobs go on"
        ) from error


def _read(row: sqlite3.Row) -> Job:
    def time(name: str) -> datetime | None:
        return datetime.fromisoformat(row[name]) if row[name] else None

    return Job(
        id=row["id"],
        adapter=row["adapter"],
        request=_object(row["request"]),
        trace_id=row["trace_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
        status=JobStatus(row["status"]),
        phase=Phase(row["phase"]) if row["phase"] else None,
        attempt=row["attempt"],
        crashes=row["crashes"],
        cancel_requested=bool(row["cancel_requested"]),
        pause_requested=bool(row["pause_requested"]),
        step=row["step"],
        total_steps=row["total_steps"],
        progress=_object(row["progress"]),
        result=_object(row["result"]) if row["result"] else None,
        error_code=row["error_code"],
        error_message=row["error_message"],
        started_at=time("started_at"),
        finished_at=time("finished_at"),
        asked=_object(row["asked"]) if row["asked"] else None,
        node_id=row["node_id"],
        content_key=row["content_key"],
        priority=row["priority"],
    )


def to_event(row: sqlite3.Row) -> JobEvent:
    at, data = datetime.fromisoformat(row["at"]), json.loads(row["data"]) if row["data"] else None
    return JobEvent(row["job_id"], row["attempt"], row["kind"], at, row["number"], data)


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"a JSON object is wanted, {type(value).__name__} was found")
    return value
