"""Who is still to be told of what: rows that are written with what they tell of.

    pending ─▶ sent
       │  ▲ (tried again later, the reason beside it)
       └──┴─▶ dropped    nobody wants it any more, or for too long nobody took it

Nothing is sent here. The row is the truth of whether something was taken: at least once, and after a crash
perhaps once more, with the same `event_id`. Every move is a compare-and-set.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import uuid4

from adapter_service.database import Database


class NoticeKind(StrEnum):
    """Over MQTT to a node, or over HTTP to whoever asked for the job."""

    ADAPTER_READY = "adapter_ready"
    CALLBACK = "callback"


class NoticeStatus(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell; `reason` is why the last attempt came to nothing, or why there will be none.

    `alias` is by which of its names a job is told of, where a hub asked for what another was trained for already.
    """

    number: int
    event_id: str
    kind: NoticeKind
    job_id: str
    status: NoticeStatus
    attempts: int
    next_attempt_at: datetime
    reason: str | None
    created_at: datetime
    changed_at: datetime
    alias: str | None = None


def queue(
    connection: sqlite3.Connection, kind: NoticeKind, job_id: str, at: datetime, *, alias: str | None = None
) -> str:
    """Have it told, inside the transaction that makes it true; the new `event_id`."""
    event_id = str(uuid4())
    connection.execute(_QUEUE, (event_id, kind, job_id, alias, *[at.astimezone(UTC).isoformat()] * 3))
    return event_id


def queue_callback(connection: sqlite3.Connection, job_id: str, at: datetime) -> str | None:
    """`queue` for everyone who asked for the job and said where they want to be called back; the first of them."""
    for alias in connection.execute(_ALIASES, (job_id,)).fetchall():
        queue(connection, NoticeKind.CALLBACK, job_id, at, alias=alias["alias"])
    row = connection.execute("SELECT request FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None or not json.loads(row["request"]).get("callback"):
        return None
    return queue(connection, NoticeKind.CALLBACK, job_id, at)


class Outbox:
    """The rows, for whoever sends and for whoever asks; safe to share between threads."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    def list(self) -> tuple[Notice, ...]:
        """Every row, in the order in which they were queued."""
        return tuple(map(_notice, self._database.read("SELECT * FROM outbox ORDER BY number")))

    def next(self, kind: NoticeKind) -> Notice | None:
        """The pending one of a kind that is due first, be it now or later; a node is told in order."""
        rows = self._database.read(_NEXT, (kind,))
        return _notice(rows[0]) if rows else None

    def sent(self, notice: Notice) -> None:
        self._move(notice, NoticeStatus.SENT, notice.next_attempt_at, None)

    def dropped(self, notice: Notice, reason: str) -> None:
        self._move(notice, NoticeStatus.DROPPED, notice.next_attempt_at, reason)

    def postpone(self, notice: Notice, until: datetime, reason: str) -> None:
        """One more attempt was made and came to nothing."""
        self._move(notice, NoticeStatus.PENDING, until, reason)

    def try_now(self, kind: NoticeKind) -> None:
        """What is pending is due at once: whatever was in the way may be mended, now that the service starts."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET next_attempt_at = ? WHERE kind = ? AND status = 'pending'",
                (self._now().isoformat(), kind),
            )

    def _move(self, notice: Notice, status: NoticeStatus, next_attempt_at: datetime, reason: str | None) -> None:
        to = (status, notice.attempts + 1, next_attempt_at.astimezone(UTC).isoformat(), reason, self._now().isoformat())
        with self._database.transaction() as connection:
            connection.execute(_MOVE, (*to, notice.number, notice.attempts))


def _notice(row: sqlite3.Row) -> Notice:
    return Notice(
        number=row["number"],
        event_id=row["event_id"],
        kind=NoticeKind(row["kind"]),
        job_id=row["job_id"],
        status=NoticeStatus(row["status"]),
        attempts=row["attempts"],
        next_attempt_at=datetime.fromisoformat(row["next_attempt_at"]),
        reason=row["reason"],
        created_at=datetime.fromisoformat(row["created_at"]),
        changed_at=datetime.fromisoformat(row["changed_at"]),
        alias=row["alias"],
    )


_QUEUE = """
    INSERT INTO outbox (event_id, kind, job_id, alias, status, attempts, next_attempt_at, created_at, changed_at)
    VALUES (?, ?, ?, ?, 'pending', 0, ?, ?, ?)"""
_ALIASES = "SELECT alias FROM job_aliases WHERE job_id = ? AND callback IS NOT NULL ORDER BY alias"
# Of what a node is told the oldest alone: told out of order, an older adapter would be the last word.
_NEXT = """
    SELECT outbox.* FROM outbox JOIN jobs ON jobs.id = outbox.job_id
    WHERE kind = ? AND outbox.status = 'pending' AND outbox.number IN (
        SELECT min(older.number) FROM outbox AS older JOIN jobs AS whose ON whose.id = older.job_id
        WHERE older.kind = outbox.kind AND older.status = 'pending'
        GROUP BY CASE older.kind WHEN 'adapter_ready' THEN coalesce(whose.node_id, whose.id) ELSE older.number END)
    ORDER BY outbox.next_attempt_at, outbox.number LIMIT 1"""
_MOVE = """
    UPDATE outbox SET status = ?, attempts = ?, next_attempt_at = ?, reason = ?, changed_at = ?
    WHERE number = ? AND status = 'pending' AND attempts = ?"""
