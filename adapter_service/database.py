"""The state that must survive a power cut: one SQLite file, short transactions, numbered migrations.

Two connections serve all threads, one for those that write and one for those that read: a transaction
here is a few rows, so a connection per thread would buy nothing and leave one open for each worker of
the web server. Readers do not wait for a writer, nor for its disk. Other processes may open the same
file; they wait for each other by `BUSY_SECONDS`. A third connection is for who must not wait at all.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from adapter_service.errors import DatabaseError, StorageError
from adapter_service.storage_faults import storage_fault

BUSY_SECONDS = 30
OLDEST_SQLITE = (3, 37)  # the first with STRICT tables

Migration = Callable[[sqlite3.Connection], None]
Parameters = Sequence[Any] | Mapping[str, Any]


def m001_jobs(connection: sqlite3.Connection) -> None:
    connection.execute("""
        CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            adapter TEXT NOT NULL,
            status TEXT NOT NULL
                CHECK (status IN ('queued', 'paused', 'running', 'succeeded', 'failed', 'cancelled')),
            phase TEXT,
            attempt INTEGER NOT NULL,
            request TEXT NOT NULL,
            trace_id TEXT NOT NULL,
            idempotency_key TEXT UNIQUE,
            cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
            step INTEGER NOT NULL,
            total_steps INTEGER,
            progress TEXT NOT NULL,
            result TEXT,
            error_code TEXT,
            error_message TEXT,
            created_at TEXT NOT NULL,
            started_at TEXT,
            finished_at TEXT
        ) STRICT""")
    connection.execute("CREATE INDEX jobs_by_status ON jobs (status, number)")
    connection.execute("""
        CREATE TABLE job_events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            job_id TEXT NOT NULL REFERENCES jobs (id),
            attempt INTEGER NOT NULL,
            kind TEXT NOT NULL,
            at TEXT NOT NULL
        ) STRICT""")
    connection.execute("CREATE INDEX job_events_by_job ON job_events (job_id, number)")


def m002_versions(connection: sqlite3.Connection) -> None:
    connection.execute("""
        CREATE TABLE versions (
            adapter TEXT NOT NULL,
            number INTEGER NOT NULL,
            key TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('candidate', 'live', 'rejected', 'retired')),
            created_at TEXT NOT NULL,
            job_id TEXT,
            base_id TEXT NOT NULL,
            parent_key TEXT,
            gate TEXT NOT NULL,
            PRIMARY KEY (adapter, number),
            UNIQUE (adapter, key)
        ) STRICT""")
    connection.execute("CREATE UNIQUE INDEX one_live_version ON versions (adapter) WHERE status = 'live'")
    # A stack per adapter: its newest row is the live version, the one below is what a rollback restores.
    connection.execute("""
        CREATE TABLE live_versions (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            adapter TEXT NOT NULL,
            version INTEGER NOT NULL,
            FOREIGN KEY (adapter, version) REFERENCES versions (adapter, number)
        ) STRICT""")


def m003_crashes(connection: sqlite3.Connection) -> None:
    """How often the process died under a job; a shutdown in order is an attempt as well, and no crash."""
    connection.execute("ALTER TABLE jobs ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0")


def m004_uploads(connection: sqlite3.Connection) -> None:
    """What became of each version, and to which stores those that went live are still to be pushed."""
    # Without a foreign key: a removed version leaves its events, so that no number is ever given twice.
    connection.execute("""
        CREATE TABLE version_events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            adapter TEXT NOT NULL,
            version INTEGER NOT NULL,
            key TEXT NOT NULL,
            kind TEXT NOT NULL,
            at TEXT NOT NULL
        ) STRICT""")
    connection.execute("CREATE INDEX version_events_by_version ON version_events (adapter, version)")
    connection.execute("""
        INSERT INTO version_events (adapter, version, key, kind, at)
        SELECT adapter, number, key, status, created_at FROM versions ORDER BY adapter, number""")
    connection.execute("""
        CREATE TABLE uploads (
            adapter TEXT NOT NULL,
            version INTEGER NOT NULL,
            store TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('pending', 'pushed', 'failed')),
            attempts INTEGER NOT NULL,
            next_attempt_at TEXT NOT NULL,
            reason TEXT,
            changed_at TEXT NOT NULL,
            PRIMARY KEY (adapter, version, store),
            FOREIGN KEY (adapter, version) REFERENCES versions (adapter, number) ON DELETE CASCADE
        ) STRICT""")
    connection.execute("CREATE INDEX uploads_by_time ON uploads (status, next_attempt_at)")


def m005_pausing(connection: sqlite3.Connection) -> None:
    connection.execute(
        "ALTER TABLE jobs ADD COLUMN pause_requested INTEGER NOT NULL DEFAULT 0 CHECK (pause_requested IN (0, 1))"
    )


def m006_files(connection: sqlite3.Connection) -> None:
    """Files to train on that clients sent, and what the fine-tuning API tells of a job beyond its request."""
    connection.execute("""
        CREATE TABLE files (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            filename TEXT NOT NULL,
            purpose TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('uploaded', 'processed', 'error')),
            status_details TEXT,
            format TEXT,
            samples INTEGER,
            created_at TEXT NOT NULL
        ) STRICT""")
    connection.execute("ALTER TABLE jobs ADD COLUMN asked TEXT")
    connection.execute("ALTER TABLE job_events ADD COLUMN data TEXT")


def m007_nodes(connection: sqlite3.Connection) -> None:
    """Jobs for the nodes of a home hub: at most one that has begun and one that has not, of each."""
    for column in ("node_id TEXT", "content_key TEXT", "priority INTEGER NOT NULL DEFAULT 0"):
        connection.execute(f"ALTER TABLE jobs ADD COLUMN {column}")
    # One that was put back after a crash or a shutdown has begun: it waits beside a newer one for its turn.
    connection.execute("""
        CREATE UNIQUE INDEX one_begun_per_node ON jobs (node_id)
        WHERE node_id IS NOT NULL
            AND (status = 'running' OR (status IN ('queued', 'paused') AND attempt > 0))""")
    connection.execute("""
        CREATE UNIQUE INDEX one_waiting_per_node ON jobs (node_id)
        WHERE node_id IS NOT NULL AND status IN ('queued', 'paused') AND attempt = 0""")
    connection.execute("CREATE INDEX jobs_by_node ON jobs (node_id, number) WHERE node_id IS NOT NULL")
    connection.execute("CREATE INDEX jobs_by_content ON jobs (content_key, number) WHERE content_key IS NOT NULL")
    # What hubs call the jobs that they queue; several names may have become one job.
    connection.execute("""
        CREATE TABLE job_aliases (
            alias TEXT PRIMARY KEY,
            job_id TEXT NOT NULL REFERENCES jobs (id),
            callback TEXT
        ) STRICT""")


def m008_deliveries(connection: sqlite3.Connection) -> None:
    """What becomes of an adapter on its way to its node, and who is still to be told of it."""
    connection.execute("""
        CREATE TABLE deliveries (
            job_id TEXT PRIMARY KEY REFERENCES jobs (id),
            node_id TEXT NOT NULL,
            base_model_id TEXT NOT NULL,
            dataset_hash TEXT NOT NULL,
            adapter TEXT NOT NULL,
            version_key TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('pending', 'published', 'deleted', 'failed', 'withdrawn')),
            object_key TEXT,
            size_bytes INTEGER,
            sha256 TEXT,
            attempts INTEGER NOT NULL,
            first_attempt_at TEXT,
            next_attempt_at TEXT NOT NULL,
            published_at TEXT,
            expires_at TEXT,
            acknowledged_at TEXT,
            reason TEXT,
            created_at TEXT NOT NULL,
            changed_at TEXT NOT NULL
        ) STRICT""")
    connection.execute("CREATE INDEX deliveries_by_time ON deliveries (status, next_attempt_at)")
    connection.execute("CREATE INDEX deliveries_by_node ON deliveries (node_id)")
    connection.execute("CREATE UNIQUE INDEX one_delivery_per_object ON deliveries (object_key)")
    # Two that wait for a store might come to the node in the wrong order.
    connection.execute("""
        CREATE UNIQUE INDEX one_pending_per_node ON deliveries (node_id, base_model_id) WHERE status = 'pending'""")
    connection.execute("""
        CREATE TABLE outbox (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL CHECK (kind IN ('adapter_ready', 'callback')),
            job_id TEXT NOT NULL REFERENCES jobs (id),
            alias TEXT,
            status TEXT NOT NULL CHECK (status IN ('pending', 'sent', 'dropped')),
            attempts INTEGER NOT NULL,
            next_attempt_at TEXT NOT NULL,
            reason TEXT,
            created_at TEXT NOT NULL,
            changed_at TEXT NOT NULL
        ) STRICT""")
    connection.execute("CREATE INDEX outbox_by_time ON outbox (kind, status, next_attempt_at)")


def m009_api_keys(connection: sqlite3.Connection) -> None:
    """Who may; of a key there is its SHA-256 alone."""
    connection.execute("""
        CREATE TABLE api_keys (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            digest TEXT NOT NULL UNIQUE,
            scopes TEXT NOT NULL,
            created_at TEXT NOT NULL,
            expires_at TEXT,
            revoked_at TEXT
        ) STRICT""")


# The place in this list is the migration's number; a landed one is never edited.
MIGRATIONS: tuple[Migration, ...] = (
    m001_jobs,
    m002_versions,
    m003_crashes,
    m004_uploads,
    m005_pausing,
    m006_files,
    m007_nodes,
    m008_deliveries,
    m009_api_keys,
)


class Database:
    """One open SQLite file, brought to the newest schema; safe to share between threads.

    `fault` says why the last transaction could not be written, where the disk or the file is at fault;
    None once one was written again.

    Raises:
        DatabaseError: the file is not a database, or a newer version of the service wrote it.
        StorageError: it is locked, or cannot be written.
    """

    def __init__(
        self, path: Path, migrations: Sequence[Migration] = MIGRATIONS, *, busy_seconds: float | None = None
    ) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise DatabaseError(
                f"this Python has SQLite {sqlite3.sqlite_version}; 3.37 or newer is needed: "
                "install a newer Python or SQLite library"
            )
        self.path = path
        self.fault: StorageError | None = None
        self._busy_seconds = BUSY_SECONDS if busy_seconds is None else busy_seconds
        self._writing, self._reading, self._glancing = threading.RLock(), threading.RLock(), threading.RLock()
        with ExitStack() as opened:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = opened.enter_context(closing(self._connect()))
                self._migrate(migrations)
                self._reader = opened.enter_context(closing(self._connect()))
                self._glancer = opened.enter_context(closing(self._connect()))
                self._glancer.execute("PRAGMA busy_timeout = 0")
                for reader in (self._reader, self._glancer):
                    reader.execute("PRAGMA query_only = ON")
            except (sqlite3.DatabaseError, OSError) as error:
                raise self._cannot_be_opened(error) from error
            opened.pop_all()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # WAL with the usual NORMAL may lose the last commits on power loss: a job once accepted must stay.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _cannot_be_opened(self, error: sqlite3.DatabaseError | OSError) -> DatabaseError | StorageError:
        is_other_file = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB
        if not is_other_file and (fault := storage_fault(error)) is not None:
            return type(fault)(f"{self.path} cannot be opened: {fault}")
        return DatabaseError(
            f"the state database {self.path} cannot be opened ({error}); "
            "move it away to start with an empty one, or restore a backup"
        )

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        if self._schema(self._writer) == len(migrations):
            return  # a full disk can still be read
        with self.transaction() as connection:
            found = self._schema(connection)
            if found > len(migrations):
                raise DatabaseError(
                    f"the state database {self.path} has schema {found}, and this version knows up to "
                    f"{len(migrations)}; start the newer version of the service, or use another state folder"
                )
            for migration in migrations[found:]:
                migration(connection)
            connection.execute(f"PRAGMA user_version = {len(migrations)}")

    @staticmethod
    def _schema(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def transaction(self, *, wait_seconds: float = BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
        """All or nothing, alone from the start: what was read inside is still true when it commits.

        Keep it short: every other thread that writes waits. Not to be nested. It is waited for `wait_seconds`
        at most, while others hold the database.

        Raises:
            sqlite3.Error: nothing was written; `storage_fault` says whether the disk or the file is at fault.
        """
        wait_seconds = min(wait_seconds, self._busy_seconds)
        try:
            with self._turn(wait_seconds):
                self._writer.execute(f"PRAGMA busy_timeout = {round(1000 * wait_seconds)}")
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                except BaseException:
                    # A full disk has rolled back by itself already.
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            self.fault = storage_fault(error) or self.fault
            raise
        self.fault = None

    @contextmanager
    def _turn(self, wait_seconds: float) -> Iterator[None]:
        """The writers' lock; of those who wait in a row none waits as long as all before it together."""
        if not self._writing.acquire(timeout=wait_seconds):
            busy = sqlite3.OperationalError("other threads wait for the locked database")
            busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise busy
        try:
            yield
        finally:
            self._writing.release()

    def read(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """The rows of one SELECT, as the last transaction left them."""
        with self._reading:
            return self._reader.execute(sql, parameters).fetchall()

    def glance(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """As `read`, of a row or two and waiting for nobody: for the event loop, which all requests share.

        Raises:
            sqlite3.OperationalError: another process has the file to itself just now.
        """
        with self._glancing:
            return self._glancer.execute(sql, parameters).fetchall()

    def close(self) -> None:
        with self._writing, self._reading, self._glancing:
            self._glancer.close()
            self._reader.close()
            self._writer.close()
