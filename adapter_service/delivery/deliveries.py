"""What becomes of a judged version on its way to its node: rows that are written with the success of its job.

    queue ─▶ pending ─▶ published ─▶ deleted        fetched, or expired
              │  ▲ (tried again later, the reason beside it)
              └──┼─▶ failed         for a reason that stays, or after too long
                 └─▶ withdrawn      cancelled, or an adapter for newer commands came

Whoever asks for the same content again makes pending anew what is deleted, failed or withdrawn, and
what is published and about to be deleted. Of a node and a base at most one is pending.

`object_key` is there as long as something may lie in the store: it is written before an upload begins and
taken out when the object is deleted, so that a crash leaves neither two objects nor a lost one. Nothing
is sent here; every move is a compare-and-set, and says whether it was made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from adapter_service.database import Database, Parameters
from adapter_service.delivery import outbox
from adapter_service.delivery.outbox import NoticeKind

_SUPERSEDED = "an adapter for newer commands of the same node came"


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    PUBLISHED = "published"
    DELETED = "deleted"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One version for one node.

    `next_attempt_at` is when to upload it, or when to delete it; `sha256` and `size_bytes` are those of the
    last `adapter.zip` that was to be uploaded.
    """

    job_id: str
    node_id: str
    base_model_id: str
    dataset_hash: str
    adapter: str
    version_key: str
    status: DeliveryStatus
    object_key: str | None
    size_bytes: int | None
    sha256: str | None
    attempts: int
    first_attempt_at: datetime | None
    next_attempt_at: datetime
    published_at: datetime | None
    expires_at: datetime | None
    acknowledged_at: datetime | None
    reason: str | None
    created_at: datetime
    changed_at: datetime


def queue(
    connection: sqlite3.Connection,
    *,
    job_id: str,
    node_id: str,
    base_model_id: str,
    dataset_hash: str,
    adapter: str,
    version_key: str,
    at: datetime,
) -> None:
    """Have a version delivered, inside the transaction in which its job succeeds or is asked for again.

    What is pending or to be fetched stays as it is; what is pending for an older job of the node is withdrawn, and
    whoever asked for that one is told.
    """
    row = connection.execute("SELECT * FROM deliveries WHERE job_id = ?", (job_id,)).fetchone()
    if row is not None and _lasts(_delivery(row), at):
        return
    values = {
        "job_id": job_id,
        "node_id": node_id,
        "base_model_id": base_model_id,
        "dataset_hash": dataset_hash,
        "adapter": adapter,
        "version_key": version_key,
        "at": _text(at),
        "superseded": _SUPERSEDED,
    }
    for withdrawn in connection.execute(_SUPERSEDE, values).fetchall():
        outbox.queue_callback(connection, withdrawn["job_id"], at)
    connection.execute(_QUEUE, values)


class Deliveries:
    """The rows, for whoever delivers and for whoever asks; safe to share between threads."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    def get(self, job_id: str) -> Delivery | None:
        return self._one("SELECT * FROM deliveries WHERE job_id = ?", (job_id,))

    def at(self, object_key: str) -> Delivery | None:
        """The one whose object that is."""
        return self._one("SELECT * FROM deliveries WHERE object_key = ?", (object_key,))

    def of_node(self, node_id: str) -> tuple[Delivery, ...]:
        """Every one of a node, newest first."""
        rows = self._database.read(
            "SELECT * FROM deliveries WHERE node_id = ? ORDER BY created_at DESC, job_id DESC", (node_id,)
        )
        return tuple(map(_delivery, rows))

    def next(self) -> Delivery | None:
        """The pending one that is due first, be it now or later."""
        return self._one(_NEXT)

    def next_to_delete(self) -> Delivery | None:
        """The one whose object is to be deleted first, be it now or later."""
        return self._one(_NEXT_TO_DELETE)

    def begin(self, delivery: Delivery, keys: Iterable[str], *, size_bytes: int, sha256: str) -> Delivery | None:
        """Write down what is about to be uploaded, under the key that it has or the first of `keys` that is free."""
        with self._database.transaction() as connection:
            key = delivery.object_key or next(key for key in keys if not connection.execute(_TAKEN, (key,)).fetchone())
            first = delivery.first_attempt_at or self._now()
            begun = replace(delivery, object_key=key, size_bytes=size_bytes, sha256=sha256, first_attempt_at=first)
            return self._move(connection, delivery, begun)

    def published(self, delivery: Delivery, expires_at: datetime) -> Delivery | None:
        """It lies in the store until `expires_at`; who is to be told of it is written with that."""
        now = self._now()
        with self._database.transaction() as connection:
            moved = self._move(
                connection,
                delivery,
                replace(
                    delivery,
                    status=DeliveryStatus.PUBLISHED,
                    attempts=delivery.attempts + 1,
                    next_attempt_at=expires_at,
                    published_at=now,
                    expires_at=expires_at,
                    reason=None,
                ),
            )
            if moved is not None:
                outbox.queue(connection, NoticeKind.ADAPTER_READY, delivery.job_id, now)
                outbox.queue_callback(connection, delivery.job_id, now)
        return moved

    def postpone(self, delivery: Delivery, until: datetime, reason: str | None) -> Delivery | None:
        """One more attempt to upload it, or to delete it, was made and came to nothing."""
        first = delivery.first_attempt_at or self._now()
        moved = replace(delivery, attempts=delivery.attempts + 1, next_attempt_at=until, reason=reason)
        with self._database.transaction() as connection:
            return self._move(connection, delivery, replace(moved, first_attempt_at=first))

    def failed(self, delivery: Delivery, reason: str) -> Delivery | None:
        """It will not be published, and whoever asked for it is to be told; what may lie in the store is due to go."""
        now = self._now()
        moved = replace(delivery, status=DeliveryStatus.FAILED, attempts=delivery.attempts + 1, reason=reason)
        with self._database.transaction() as connection:
            found = self._move(connection, delivery, replace(moved, next_attempt_at=now))
            if found is not None:
                outbox.queue_callback(connection, delivery.job_id, now)
        return found

    def deleted(self, delivery: Delivery) -> Delivery | None:
        """Nothing of it lies in the store any more."""
        ended = DeliveryStatus.DELETED if delivery.status is DeliveryStatus.PUBLISHED else delivery.status
        with self._database.transaction() as connection:
            return self._move(connection, delivery, replace(delivery, status=ended, object_key=None))

    def withdraw(self, job_id: str, reason: str = "it was cancelled") -> bool:
        """Publish it no more, and have whoever asked for it told; what was published stays until it expires.

        False where there is nothing pending.
        """
        now = self._now()
        with self._database.transaction() as connection:
            values = {"job_id": job_id, "at": _text(now), "reason": reason}
            withdrawn = connection.execute(_WITHDRAW, values).rowcount == 1
            if withdrawn:
                outbox.queue_callback(connection, job_id, now)
        return withdrawn

    def acknowledge(self, job_id: str) -> bool:
        """Its node has it, so that it is due to be deleted; False where it is not published (any more)."""
        with self._database.transaction() as connection:
            values = {"job_id": job_id, "at": _text(self._now())}
            return connection.execute(_ACKNOWLEDGE, values).rowcount == 1

    def _one(self, sql: str, parameters: Parameters = ()) -> Delivery | None:
        rows = self._database.read(sql, parameters)
        return _delivery(rows[0]) if rows else None

    def _move(self, connection: sqlite3.Connection, known: Delivery, to: Delivery) -> Delivery | None:
        """`to`, if the row still is as it was known: else somebody else was faster, and None."""
        values = {
            "status": to.status,
            "object_key": to.object_key,
            "size_bytes": to.size_bytes,
            "sha256": to.sha256,
            "attempts": to.attempts,
            "first_attempt_at": _text(to.first_attempt_at),
            "next_attempt_at": _text(to.next_attempt_at),
            "published_at": _text(to.published_at),
            "expires_at": _text(to.expires_at),
            "reason": to.reason,
            "changed_at": _text(self._now()),
            "job_id": known.job_id,
            "known_status": known.status,
            "known_attempts": known.attempts,
        }
        row = connection.execute(_MOVE, values).fetchone()
        return _delivery(row) if row is not None else None


def _lasts(delivery: Delivery, at: datetime) -> bool:
    """Whether whoever asks for it now gets what there is, or what is coming."""
    if delivery.status is DeliveryStatus.PUBLISHED:
        return delivery.acknowledged_at is None and delivery.expires_at is not None and at < delivery.expires_at
    return delivery.status is DeliveryStatus.PENDING


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(
        job_id=row["job_id"],
        node_id=row["node_id"],
        base_model_id=row["base_model_id"],
        dataset_hash=row["dataset_hash"],
        adapter=row["adapter"],
        version_key=row["version_key"],
        status=DeliveryStatus(row["status"]),
        object_key=row["object_key"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        attempts=row["attempts"],
        first_attempt_at=_time(row["first_attempt_at"]),
        next_attempt_at=datetime.fromisoformat(row["next_attempt_at"]),
        published_at=_time(row["published_at"]),
        expires_at=_time(row["expires_at"]),
        acknowledged_at=_time(row["acknowledged_at"]),
        reason=row["reason"],
        created_at=datetime.fromisoformat(row["created_at"]),
        changed_at=datetime.fromisoformat(row["changed_at"]),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(at: datetime | None) -> str | None:
    """In UTC, so that texts compare as the times do."""
    return None if at is None else at.astimezone(UTC).isoformat()


_SUPERSEDE = """
    UPDATE deliveries SET status = 'withdrawn', next_attempt_at = :at, reason = :superseded, changed_at = :at
    WHERE status = 'pending' AND node_id = :node_id AND base_model_id = :base_model_id AND job_id <> :job_id
    RETURNING job_id"""
# The key of an object that may still lie there is kept: the upload finds it, and nothing is left behind.
_QUEUE = """
    INSERT INTO deliveries (job_id, node_id, base_model_id, dataset_hash, adapter, version_key, status, attempts,
        next_attempt_at, created_at, changed_at)
    VALUES (:job_id, :node_id, :base_model_id, :dataset_hash, :adapter, :version_key, 'pending', 0, :at, :at, :at)
    ON CONFLICT (job_id) DO UPDATE
    SET status = 'pending', attempts = 0, first_attempt_at = NULL, next_attempt_at = :at, published_at = NULL,
        expires_at = NULL, acknowledged_at = NULL, reason = NULL, adapter = :adapter, version_key = :version_key,
        changed_at = :at"""
_NEXT = "SELECT * FROM deliveries WHERE status = 'pending' ORDER BY next_attempt_at, job_id LIMIT 1"
_NEXT_TO_DELETE = """
    SELECT * FROM deliveries WHERE status IN ('published', 'failed', 'withdrawn') AND object_key IS NOT NULL
    ORDER BY next_attempt_at, job_id LIMIT 1"""
_TAKEN = "SELECT 1 FROM deliveries WHERE object_key = ?"
_MOVE = """
    UPDATE deliveries SET status = :status, object_key = :object_key, size_bytes = :size_bytes, sha256 = :sha256,
        attempts = :attempts, first_attempt_at = :first_attempt_at, next_attempt_at = :next_attempt_at,
        published_at = :published_at, expires_at = :expires_at, reason = :reason, changed_at = :changed_at
    WHERE job_id = :job_id AND status = :known_status AND attempts = :known_attempts
    RETURNING *"""
_WITHDRAW = """
    UPDATE deliveries SET status = 'withdrawn', next_attempt_at = :at, reason = :reason, changed_at = :at
    WHERE job_id = :job_id AND status = 'pending'"""
_ACKNOWLEDGE = """
    UPDATE deliveries SET acknowledged_at = coalesce(acknowledged_at, :at), next_attempt_at = :at, changed_at = :at
    WHERE job_id = :job_id AND status = 'published'"""
