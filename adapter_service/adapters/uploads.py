"""Which version is still to be pushed to which store: rows that are written with the decision to serve it.

    pending ─▶ pushed
       │  ▲ (tried again later, the reason beside it)
       └──┴─▶ failed     for a reason that stays, or after too many attempts

Nothing is sent here; every move is a compare-and-set, so that a removed version's push ends nowhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from adapter_service.database import Database


class UploadStatus(StrEnum):
    PENDING = "pending"
    PUSHED = "pushed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Upload:
    """One version on its way to one store; `reason` is why the last attempt came to nothing."""

    adapter: str
    version: int
    store: str
    status: UploadStatus
    attempts: int
    next_attempt_at: datetime
    reason: str | None
    changed_at: datetime

    @property
    def reference(self) -> str:
        return f"{self.adapter}@{self.version}"


def queue(connection: sqlite3.Connection, adapter: str, version: int, stores: Iterable[str], at: datetime) -> None:
    """Have a version pushed to every one of `stores`, inside the transaction in which it goes live.

    What was pushed before is not pushed again; what had failed is tried anew.
    """
    for store in stores:
        connection.execute(_QUEUE, (adapter, version, store, at.isoformat(), at.isoformat()))


class Uploads:
    """The rows, for whoever pushes and for whoever asks; safe to share between threads."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    def list(self) -> tuple[Upload, ...]:
        """Every row, by adapter, version and store."""
        rows = self._database.read("SELECT * FROM uploads ORDER BY adapter, version DESC, store")
        return tuple(map(_upload, rows))

    def next(self) -> Upload | None:
        """The pending one that is due first, be it now or later."""
        rows = self._database.read(
            "SELECT * FROM uploads WHERE status = 'pending' ORDER BY next_attempt_at, adapter, version LIMIT 1"
        )
        return _upload(rows[0]) if rows else None

    def pushed(self, upload: Upload) -> None:
        self._move(upload, UploadStatus.PUSHED, upload.next_attempt_at, None)

    def failed(self, upload: Upload, reason: str) -> None:
        self._move(upload, UploadStatus.FAILED, upload.next_attempt_at, reason)

    def postpone(self, upload: Upload, until: datetime, reason: str) -> None:
        """One more attempt was made and came to nothing."""
        self._move(upload, UploadStatus.PENDING, until, reason)

    def note_pushed(self, adapter: str, version: int, store: str) -> None:
        """A push that nobody had queued: by hand, from the command line. Nothing is noted of a removed version."""
        now = self._now()
        with suppress(sqlite3.IntegrityError), self._database.transaction() as connection:
            queue(connection, adapter, version, [store], now)
            connection.execute(_NOTE_PUSHED, (now.isoformat(), adapter, version, store))

    def forget_other_stores(self, stores: Sequence[str]) -> None:
        """What is pending for a store that is not configured any more has failed."""
        reason = "the store is not configured any more; configure it again, and push the version by hand"
        for upload in self.list():
            if upload.status is UploadStatus.PENDING and upload.store not in stores:
                self.failed(upload, reason)

    def try_now(self) -> None:
        """What is pending is due at once: whatever was in the way may be mended, now that the service starts."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE uploads SET next_attempt_at = ? WHERE status = 'pending'", (self._now().isoformat(),)
            )

    def _move(self, upload: Upload, status: UploadStatus, next_attempt_at: datetime, reason: str | None) -> None:
        to = (status, upload.attempts + 1, next_attempt_at.isoformat(), reason, self._now().isoformat())
        known = (upload.adapter, upload.version, upload.store, upload.attempts)
        with self._database.transaction() as connection:
            connection.execute(_MOVE, (*to, *known))


def _upload(row: sqlite3.Row) -> Upload:
    return Upload(
        adapter=row["adapter"],
        version=row["version"],
        store=row["store"],
        status=UploadStatus(row["status"]),
        attempts=row["attempts"],
        next_attempt_at=datetime.fromisoformat(row["next_attempt_at"]),
        reason=row["reason"],
        changed_at=datetime.fromisoformat(row["changed_at"]),
    )


_QUEUE = """
    INSERT INTO uploads (adapter, version, store, status, attempts, next_attempt_at, changed_at)
    VALUES (?, ?, ?, 'pending', 0, ?, ?)
    ON CONFLICT (adapter, version, store) DO UPDATE
    SET status = 'pending', attempts = 0, next_attempt_at = excluded.next_attempt_at, reason = NULL,
        changed_at = excluded.changed_at
    WHERE status = 'failed'"""
_MOVE = """
    UPDATE uploads SET status = ?, attempts = ?, next_attempt_at = ?, reason = ?, changed_at = ?
    WHERE adapter = ? AND version = ? AND store = ? AND status = 'pending' AND attempts = ?"""
_NOTE_PUSHED = """
    UPDATE uploads SET status = 'pushed', reason = NULL, changed_at = ?
    WHERE adapter = ? AND version = ? AND store = ?"""
