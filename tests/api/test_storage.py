"""A disk or a database that takes nothing: told in a problem and in /health, and nothing is lost."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api import services as services_module
from adapter_service.api.services import Services
from adapter_service.database import Database
from adapter_service.errors import StorageError
from tests.api.conftest import MakeServices, client_of
from tests.waiting import READY_SECONDS, eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


@contextmanager
def full(services: Services) -> Iterator[None]:
    """SQLite's own way to be full: no page more than there are."""
    writer = services.database._writer
    writer.execute(f"PRAGMA max_page_count = {writer.execute('PRAGMA page_count').fetchone()[0]}")
    yield
    writer.execute("PRAGMA max_page_count = 4294967294")


def train(client: TestClient, **body: Any) -> Any:
    return client.post("/adapter/train-lite", json=body)


def test_a_full_disk_is_507_until_there_is_room_and_nothing_is_lost(client: TestClient, services: Services) -> None:
    kept = train(client).json()["job_id"]
    padding = {"languages": ["hi"] * 20_000}  # more than fits into the pages that there are
    with full(services):
        refused = train(client, **padding)
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
        assert "the state database is full; make room: what was accepted before is kept" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) > 0
        health = client.get("/health").json()
        assert (health["storage"]["ok"], "is full; make room" in health["storage"]["detail"]) == (False, True)
        assert client.get(f"/adapter/status/{kept}").json()["status"] == "queued"
    assert train(client, **padding).status_code == 202
    assert client.get("/health").json()["storage"]["ok"] is True
    assert len(services.jobs.list()) == 2


def test_a_locked_database_is_503_and_what_only_reads_goes_on(
    make_services: MakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_module, "Database", lambda path: Database(path, busy_seconds=0))
    services = make_services()
    client = client_of(services)
    kept = train(client).json()["job_id"]
    with closing(sqlite3.connect(services.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = train(client)
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_error")
        assert "locked by another process; end that one, or try again" in refused.json()["detail"]
        assert "locked" in client.get("/health").json()["storage"]["detail"]
        assert client.get(f"/adapter/status/{kept}").status_code == 200
    assert train(client).status_code == 202
    assert client.get("/health").json()["storage"] == {**client.get("/health").json()["storage"], "ok": True}


@pytest.fixture
def held(make_services: MakeServices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Services]:
    """Services with a store to push to, whose database another process holds."""
    monkeypatch.setattr(services_module, "Database", lambda path: Database(path, busy_seconds=0))
    stores = [{"name": "nas", "kind": "folder", "path": str(tmp_path)}]
    services = make_services(publishing={"stores": stores})
    with closing(sqlite3.connect(services.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield services


def test_a_service_whose_database_is_held_by_another_process_does_not_start_and_says_why(held: Services) -> None:
    with pytest.raises(StorageError, match="locked by another process; end that one"), client_of(held):
        pass
    assert held.runner.stop(timeout=20)


def test_a_read_only_database_is_503_and_says_what_to_do(client: TestClient, services: Services) -> None:
    services.database._writer.execute("PRAGMA query_only = ON")
    refused = train(client)
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_error")
    assert "make it writable for the user of the service" in refused.json()["detail"]
    assert str(services.settings.storage.state_dir) not in refused.text


def test_a_damaged_database_leaves_health_answering(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(services.database, "read", damaged)
    health = client.get("/health").json()
    assert (health["active_job"], health["queues"]["jobs"], health["storage"]["ok"]) == (None, None, False)
    assert "restore a backup" in health["storage"]["detail"]
    assert client.get("/adapter/list").json()["code"] == "storage_error"


def test_a_disk_that_breaks_under_a_request_is_told_without_its_path(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/home/someone/state")

    monkeypatch.setattr(type(services.jobs), "get", broken)
    answer = client.get("/adapter/status/job_0")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_error")
    assert "someone" not in answer.text


def test_an_oserror_that_says_nothing_of_storage_stays_unexpected(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "/home/someone/state")

    monkeypatch.setattr(type(services.jobs), "get", missing)
    answer = client.get("/adapter/status/job_0")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


def test_jobs_wait_while_there_is_too_little_room_and_everyone_is_told_why(
    make_services: MakeServices, tiny_base: BaseModel, tmp_path: Path
) -> None:
    storage = {"state_dir": tmp_path / "state", "min_free_mb": 1_048_576}
    services = make_services(load_base=lambda note: tiny_base, storage=storage)
    with client_of(services) as client:
        services.engine.wait_until_ready(READY_SECONDS)
        job_id = train(client).json()["job_id"]
        eventually(lambda: services.runner.fault, "the runner finds too little room")
        told = client.get(f"/adapter/status/{job_id}").json()
        health = client.get("/health").json()
    assert (told["status"], told["attempt"]) == ("queued", 0)
    assert "no job begins:" in told["message"]
    assert "storage.min_free_mb is 1048576; make room, or lower that" in told["message"]
    assert (health["status"], health["storage"]["ok"]) == ("degraded", False)
