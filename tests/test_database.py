"""The database: durable settings, all-or-nothing transactions, migrations that only go forward."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from adapter_service.database import MIGRATIONS, Database
from adapter_service.errors import DatabaseError, StorageError, StorageFullError
from adapter_service.storage_faults import storage_fault


def one_column(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE numbers (n INTEGER) STRICT")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state" / "service.db")
    yield opened
    opened.close()


def test_a_commit_survives_a_power_cut_by_its_settings(database: Database) -> None:
    settings = {name: database.read(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")}
    assert settings == {"journal_mode": "wal", "synchronous": 2}  # 2 is FULL
    assert database.read("PRAGMA foreign_keys")[0][0] == 1
    assert database.read("PRAGMA busy_timeout")[0][0] == 30_000


def test_every_table_is_strict(database: Database) -> None:
    tables = database.read("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    names = {"jobs", "job_events", "job_aliases", "versions", "live_versions", "version_events", "uploads", "files"}
    names |= {"deliveries", "outbox", "api_keys"}
    assert {row["name"] for row in tables} == names
    assert all(row["sql"].endswith("STRICT") for row in tables)


def test_an_error_inside_a_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", [one_column])
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
        connection.executemany("INSERT INTO numbers VALUES (?)", [(1,), ("not a number",)])
    assert database.read("SELECT * FROM numbers") == []
    database.close()


def test_threads_take_turns_and_lose_no_count(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", [one_column])

    def add() -> None:
        for _ in range(10):
            with database.transaction() as connection:
                count = connection.execute("SELECT count(*) FROM numbers").fetchone()[0]
                connection.execute("INSERT INTO numbers VALUES (?)", (count,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["n"] for row in database.read("SELECT n FROM numbers ORDER BY n")] == list(range(40))
    database.close()


def test_opening_twice_migrates_once(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    again = Database(tmp_path / "a.db")
    assert again.read("PRAGMA user_version")[0][0] == len(MIGRATIONS)
    again.close()


def test_an_older_database_gets_only_the_migrations_it_lacks(tmp_path: Path) -> None:
    Database(tmp_path / "a.db", MIGRATIONS[:1]).close()
    newer = Database(tmp_path / "a.db")
    assert newer.read("SELECT * FROM versions") == []
    newer.close()


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (n INTEGER) STRICT")
        connection.execute("CREATE TABLE jobs (n INTEGER) STRICT")

    Database(tmp_path / "a.db", MIGRATIONS[:1]).close()
    with pytest.raises(DatabaseError, match="already exists"):
        Database(tmp_path / "a.db", (MIGRATIONS[0], broken))
    database = Database(tmp_path / "a.db", MIGRATIONS[:1])
    assert database.read("SELECT name FROM sqlite_schema WHERE name = 'half'") == []
    database.close()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    with pytest.raises(
        DatabaseError, match=rf"schema {len(MIGRATIONS)}, and this version knows up to 1; start the newer version"
    ):
        Database(tmp_path / "a.db", MIGRATIONS[:1])


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("these are a hundred bytes of something else entirely " * 40)
    with pytest.raises(DatabaseError, match=r"not a database.*move it away"):
        Database(tmp_path / "a.db")


def test_readers_wait_for_no_writer(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("CREATE TABLE half (n INTEGER) STRICT")
        assert ThreadPoolExecutor(1).submit(database.read, "SELECT * FROM jobs").result(timeout=20) == []


def test_a_reader_sees_what_was_committed_and_cannot_write(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("CREATE TABLE numbers (n INTEGER) STRICT")
        assert database.read("SELECT name FROM sqlite_schema WHERE name = 'numbers'") == []
    assert database.read("SELECT * FROM numbers") == []
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.read("INSERT INTO numbers VALUES (1)")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Database, sqlite3.Connection]]:
    """A database that waits for nobody, and another process's connection that holds it."""
    database = Database(tmp_path / "a.db", [one_column], busy_seconds=0)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield database, other
    other.close()
    database.close()


def insert(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO numbers VALUES (1)")


def test_a_locked_database_says_so_until_it_is_free(locked: tuple[Database, sqlite3.Connection]) -> None:
    database, other = locked
    with pytest.raises(sqlite3.OperationalError):
        insert(database)
    assert "the state database is locked by another process" in str(database.fault)
    assert database.read("SELECT * FROM numbers") == []
    other.execute("ROLLBACK")
    insert(database)
    assert (database.fault, len(database.read("SELECT * FROM numbers"))) == (None, 1)


def test_those_who_wait_behind_a_writer_are_told_that_it_is_locked(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", [one_column], busy_seconds=0.05)
    with database.transaction():
        waiting = ThreadPoolExecutor(1).submit(insert, database)
        with pytest.raises(sqlite3.OperationalError) as raised:
            waiting.result(timeout=20)
    assert storage_fault(raised.value) is not None
    database.close()


def test_a_transaction_waits_as_long_as_it_is_worth_and_the_next_one_as_ever(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "a.db", busy_seconds=20)) as database:
        waits = []
        for options in ({"wait_seconds": 0.5}, {}, {"wait_seconds": 100.0}):
            with database.transaction(**options) as connection:
                waits.append(connection.execute("PRAGMA busy_timeout").fetchone()[0])
    assert waits == [500, 20_000, 20_000]


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", [one_column])
    insert(database)
    pages = database.read("PRAGMA page_count")[0][0]
    database._writer.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to be full
    with pytest.raises(sqlite3.OperationalError, match="full"), database.transaction() as connection:
        connection.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(10_000)])
    fault = database.fault
    assert isinstance(fault, StorageFullError)
    assert len(database.read("SELECT * FROM numbers")) == 1
    database._writer.execute("PRAGMA max_page_count = 4294967294")
    insert(database)
    assert (database.fault, len(database.read("SELECT * FROM numbers"))) == (None, 2)
    database.close()


def test_a_fault_of_the_caller_is_none_of_storage(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError), database.transaction() as connection:
        connection.execute("SELECT * FROM nothing")
    assert database.fault is None


def test_a_database_that_another_process_holds_at_the_start_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Database(path, MIGRATIONS[:1]).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"a\.db cannot be opened: .* locked by another process"):
            Database(path, busy_seconds=0)
    Database(path).close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="cannot be opened"):
        Database(tmp_path / "file" / "service.db")


def test_a_database_with_the_newest_schema_is_opened_without_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Database(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        Database(path, busy_seconds=0).close()


def test_a_glance_waits_for_nobody(tmp_path: Path) -> None:
    """The event loop takes it: one request that waited there would hold up all others."""
    database = Database(tmp_path / "service.db")
    reads, done = threading.Event(), threading.Event()

    def read_for_long() -> None:
        with database._reading, database.transaction():
            reads.set()
            done.wait(30)

    reader = threading.Thread(target=read_for_long)
    reader.start()
    reads.wait(30)
    assert database.glance("SELECT count(*) FROM jobs")[0][0] == 0
    assert database.glance("PRAGMA busy_timeout")[0][0] == 0
    done.set()
    reader.join(30)
    database.close()
