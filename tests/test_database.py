"""The database: durable settings, all-or-nothing transactions, migrations that only go forward."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_service.database import MIGRATIONS, Database
from adapter_service.errors import DatabaseError


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
    assert {row["name"] for row in tables} == {"jobs", "job_events", "versions", "live_versions"}
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
