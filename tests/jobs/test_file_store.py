"""Uploaded files: whole or not there, kept while a job needs them, settled after a crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_service.database import Database
from adapter_service.errors import (
    FileInUseError,
    InvalidFileError,
    StorageFullError,
    UnknownFileError,
)
from adapter_service.jobs.file_store import FileStore
from adapter_service.jobs.store import JobStore
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.jobs.training_file import FileStatus, TrainingFile, is_file_id
from adapter_service.settings import Settings

LINES = b'{"prompt": "a", "completion": "b"}\n'


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "service.db")
    yield opened
    opened.close()


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    return FileStore(database, tmp_path / "files")


def kept(files: FileStore, content: bytes = LINES) -> TrainingFile:
    with files.landing() as landing:
        landing.write(content)
        return files.keep(landing, filename="mine.jsonl", purpose="fine-tune")


def queued(database: Database, source: str, **more: Any) -> str:
    return JobStore(database).create({"source": source}, adapter="a", trace_id="t", queue_limit=9, **more).id


def test_a_file_is_uploaded_and_then_processed_or_an_error(files: FileStore) -> None:
    good, bad = kept(files), kept(files, b"{}\n")
    assert (good.status, good.bytes, good.path.read_bytes()) == (FileStatus.UPLOADED, len(LINES), LINES)
    assert is_file_id(good.id)
    processed = files.check(good)
    assert (processed.status, processed.format, processed.samples) == (FileStatus.PROCESSED, "completion", 1)
    error = files.check(bad)
    assert (error.status, error.samples) == (FileStatus.ERROR, None)
    assert "line 1" in (error.status_details or "")


def test_what_was_not_kept_leaves_nothing(files: FileStore, tmp_path: Path) -> None:
    def broken_off() -> None:
        with files.landing() as landing:
            landing.write(LINES)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert list((tmp_path / "files").iterdir()) == []
    assert files.list(after=None, limit=9).items == ()


def test_a_row_that_cannot_be_written_leaves_no_file(files: FileStore, database: Database, tmp_path: Path) -> None:
    with database.transaction() as connection:
        connection.execute("DROP TABLE files")
    with pytest.raises(Exception, match="no such table"):
        kept(files)
    assert list((tmp_path / "files").iterdir()) == []


def test_a_file_that_would_fill_the_disk_is_refused_before_it_comes(database: Database, tmp_path: Path) -> None:
    full = FileStore(database, tmp_path / "files", min_free_mb=1 << 30)
    with pytest.raises(StorageFullError, match="no file is taken"), full.landing(5 << 20):
        pytest.fail("it was let in")


def test_and_one_of_unknown_length_while_it_comes(
    files: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with files.landing() as landing:
        landing.write(LINES)
        monkeypatch.setattr(files, "_min_free_mb", 1 << 30)  # the disk fills meanwhile
        with pytest.raises(StorageFullError):
            landing.write(b"x" * (8 << 20))
    assert list((tmp_path / "files").iterdir()) == []


def test_pages_follow_each_other_in_both_orders(files: FileStore) -> None:
    ids = [kept(files).id for _ in range(5)]
    first = files.list(after=None, limit=2)
    assert ([file.id for file in first.items], first.has_more) == ([ids[4], ids[3]], True)
    last = files.list(after=ids[3], limit=3)
    assert ([file.id for file in last.items], last.has_more) == ([ids[2], ids[1], ids[0]], False)
    assert [file.id for file in files.list(after=ids[2], limit=9, order="asc").items] == ids[3:]
    with pytest.raises(UnknownFileError):
        files.list(after="file-0", limit=1)


def test_a_file_stays_while_a_job_needs_it(files: FileStore, database: Database) -> None:
    file, jobs = kept(files), JobStore(database)
    job_id = queued(database, file.id)
    jobs.request_pause(job_id)
    with pytest.raises(FileInUseError, match=job_id):
        files.delete(file.id)
    jobs.request_cancel(job_id)
    files.delete(file.id)
    assert not file.path.exists()
    with pytest.raises(UnknownFileError):
        files.delete(file.id)


def test_no_job_is_written_of_a_file_that_was_deleted_meanwhile(files: FileStore, database: Database) -> None:
    file = kept(files)
    files.delete(file.id)
    with pytest.raises(UnknownFileError):
        queued(database, file.id, also=lambda connection: files.require(file.id, connection))
    assert JobStore(database).list() == ()


def test_a_job_reads_all_of_its_file_and_nothing_in_its_place(files: FileStore) -> None:
    file = files.check(kept(files, LINES * 7))
    settings = Settings.model_validate({"data": {"fallback_source": "other", "languages": ["hi"]}})
    wanted = files.settings_for(TrainRequest(adapter="a", source=file.id), settings)
    data = wanted.data
    assert (data.source, data.max_train_samples, data.languages, data.fallback_source) == (file.id, 7, [], None)
    assert wanted.sources[file.id].options["path"] == str(file.path)
    asked = TrainRequest(adapter="a", source=file.id, max_train_samples=3, languages=["ta"])
    data = files.settings_for(asked, settings).data
    assert (data.max_train_samples, data.languages) == (3, ["ta"])


@pytest.mark.parametrize("content", [b"{}\n", None])
def test_a_file_that_is_not_processed_trains_nothing(files: FileStore, content: bytes | None) -> None:
    file = kept(files) if content is None else files.check(kept(files, content))
    with pytest.raises(InvalidFileError, match="cannot be trained on"):
        files.settings_for(TrainRequest(adapter="a", source=file.id), Settings())


def test_a_start_settles_and_removes_what_a_dead_process_left(files: FileStore, tmp_path: Path) -> None:
    cut_short, well = kept(files), files.check(kept(files))
    (tmp_path / "files" / ".landing-x").write_bytes(b"half")
    orphan = tmp_path / "files" / "file-00000000000000000000000000.jsonl"
    orphan.write_bytes(LINES)
    files.tidy()
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted([cut_short.path.name, well.path.name])
    assert "send it again" in (files.get(cut_short.id).status_details or "")
    assert files.get(well.id).status is FileStatus.PROCESSED


def test_a_new_database_does_not_cost_the_files_of_a_lost_one(files: FileStore, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    left = tmp_path / "files" / "file-00000000000000000000000000.jsonl"
    left.write_bytes(LINES)
    files.tidy()
    assert left.exists()
