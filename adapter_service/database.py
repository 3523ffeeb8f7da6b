"""The state that must survive a power cut: one SQLite file, short transactions, numbered migrations.

One connection serves all threads, which take turns: a transaction here is a few rows, so a
connection per thread would buy nothing and leave one open for each worker of the web server.
Other processes may open the same file; they wait for each other by `BUSY_SECONDS`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapter_service.errors import DatabaseError

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


# The place in this list is the migration's number; a landed one is never edited.
MIGRATIONS: tuple[Migration, ...] = (m001_jobs, m002_versions, m003_crashes)


class Database:
    """One open SQLite file, brought to the newest schema; safe to share between threads.

    Raises:
        DatabaseError: the file is not a database, or a newer version of the service wrote it.
    """

    def __init__(self, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise DatabaseError(
                f"this Python has SQLite {sqlite3.sqlite_version}; 3.37 or newer is needed: "
                "install a newer Python or SQLite library"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(migrations)
        except sqlite3.DatabaseError as error:
            self.close()
            raise DatabaseError(
                f"the state database {path} cannot be opened ({error}); "
                "move it away to start with an empty one, or restore a backup"
            ) from error
        except DatabaseError:
            self.close()
            raise

    def _prepare(self, migrations: Sequence[Migration]) -> None:
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        # WAL with the usual NORMAL may lose the last commits on power loss: a job once accepted must stay.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        with self.transaction() as connection:
            self._migrate(connection, migrations)

    def _migrate(self, connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > len(migrations):
            raise DatabaseError(
                f"the state database {self.path} has schema {found}, and this version knows up to "
                f"{len(migrations)}; start the newer version of the service, or use another state folder"
            )
        for migration in migrations[found:]:
            migration(connection)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, alone from the start: what was read inside is still true when it commits.

        Keep it short: every other thread waits. Not to be nested.
        """
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk has rolled back by itself already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def read(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """The rows of one SELECT."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        with self._lock:
            self._connection.close()
