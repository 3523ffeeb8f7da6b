"""The files to train on that clients sent: one row and one file each, in a folder of the state directory.

A file arrives in a `Landing`, under a name of its own; the row and the file's own name come together, when
all of it is on the disk. Readers name a file by its id, never by a path.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from adapter_service.database import Database
from adapter_service.durable import make_folder, sync
from adapter_service.errors import FileInUseError, UnknownFileError
from adapter_service.jobs.file_checking import check_file
from adapter_service.jobs.history import Page
from adapter_service.jobs.job import JobStatus
from adapter_service.jobs.train_request import TrainRequest, settings_for
from adapter_service.jobs.training_file import FileStatus, TrainingFile, is_file_id, new_file_id, reading_from
from adapter_service.settings import Settings
from adapter_service.storage_faults import check_room

logger = logging.getLogger(__name__)

_LANDING = ".landing-"
# After so many bytes it is looked whether the disk still has room for more.
_CHECK_BYTES = 8 << 20
# A request that is no JSON was edited by hand; its job cannot run.
_USED_BY = """
    SELECT id FROM jobs
    WHERE status IN (?, ?, ?) AND CASE WHEN json_valid(request) THEN json_extract(request, '$.source') END = ?
    ORDER BY number"""
_UNFINISHED = (JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.RUNNING)
_INSERT = """
    INSERT INTO files (id, filename, purpose, bytes, status, created_at) VALUES (?, ?, ?, ?, 'uploaded', ?)"""
_SETTLE = (
    "UPDATE files SET status = ?, status_details = ?, format = ?, samples = ? WHERE id = ? AND status = 'uploaded'"
)
_CUT_SHORT = "the service ended while its lines were read; delete it and send it again"


class Landing:
    """A file that is being received; `path` is the name that it has until it is kept."""

    def __init__(self, file: BinaryIO, path: Path, check_room: Callable[[int], None]) -> None:
        self.file = file
        self.path = path
        self._check_room = check_room
        self._unchecked = 0

    def write(self, data: bytes) -> None:
        """Add `data` to the file.

        Raises:
            StorageFullError: less is left on the disk than jobs need.
            OSError: the disk takes nothing.
        """
        self._unchecked += len(data)
        if self._unchecked >= _CHECK_BYTES:
            self._check_room(0)
            self._unchecked = 0
        self.file.write(data)


class FileStore:
    """Safe to share between threads. `now` gives aware UTC times; `min_free_mb` is left on the disk by every file."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        min_free_mb: int = 0,
    ) -> None:
        self._database = database
        self._folder = folder
        self._now = now
        self._min_free_mb = min_free_mb

    @contextmanager
    def landing(self, expected_bytes: int = 0) -> Iterator[Landing]:
        """A place to receive a file in; what was not kept by the end of it is gone.

        Raises:
            StorageFullError: there is no room for so many bytes.
            OSError: the disk takes nothing.
        """
        make_folder(self._folder)
        self._check_room(expected_bytes)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=_LANDING)
        try:
            with os.fdopen(handle, "wb") as file:
                yield Landing(file, Path(name), self._check_room)
        finally:
            Path(name).unlink(missing_ok=True)

    def keep(self, landing: Landing, *, filename: str, purpose: str) -> TrainingFile:
        """Make what was received a file of its own, on the disk when this returns; its lines are not read yet."""
        landing.file.flush()
        os.fsync(landing.file.fileno())
        size = landing.file.tell()
        now = self._now()
        file_id = new_file_id(now)
        try:
            with self._database.transaction() as connection:
                connection.execute(_INSERT, (file_id, filename, purpose, size, now.isoformat()))
                landing.path.rename(self._path(file_id))
                sync(self._folder)
        except BaseException:
            self._path(file_id).unlink(missing_ok=True)
            raise
        return self.get(file_id)

    def check(self, file: TrainingFile) -> TrainingFile:
        """Read every line of an uploaded file: it is processed then, or an error that says why."""
        findings = check_file(file.path)
        fault = findings.fault
        status = FileStatus.ERROR if fault else FileStatus.PROCESSED
        found = (None, None) if fault else (findings.format, findings.samples)
        with self._database.transaction() as connection:
            connection.execute(_SETTLE, (status, fault, *found, file.id))
        return self.get(file.id)

    def settings_for(self, request: TrainRequest, settings: Settings) -> Settings:
        """`train_request.settings_for`, where the source may be one of the files here.

        Raises:
            SettingsError: a value out of its bounds, with the bounds.
            UnknownFileError: there is no such file.
            InvalidFileError: it cannot be trained on.
        """
        wanted = settings_for(request, settings)
        if not is_file_id(wanted.data.source):
            return wanted
        file = self.get(wanted.data.source)
        file.require_usable()
        return reading_from(file, request, wanted)

    def get(self, file_id: str) -> TrainingFile:
        """The file as it is now.

        Raises:
            UnknownFileError: there is none.
        """
        rows = self._database.read("SELECT * FROM files WHERE id = ?", (file_id,))
        if not rows:
            raise _unknown(file_id)
        return self._file(rows[0])

    def list(
        self, *, after: str | None, limit: int, order: Literal["asc", "desc"] = "desc", purpose: str | None = None
    ) -> Page[TrainingFile]:
        """Files in the order in which they came, or the newest first.

        Raises:
            UnknownFileError: there is no file `after`.
        """
        number = None
        if after is not None:
            rows = self._database.read("SELECT number FROM files WHERE id = ?", (after,))
            if not rows:
                raise _unknown(after)
            number = rows[0]["number"]
        rows = self._database.read(_LISTS[order], {"number": number, "purpose": purpose, "limit": limit + 1})
        return Page(tuple(map(self._file, rows[:limit])), len(rows) > limit)

    def require(self, file_id: str, connection: sqlite3.Connection) -> None:
        """Raise UnknownFileError for a file that is gone; for the transaction that writes a job of it."""
        if connection.execute("SELECT 1 FROM files WHERE id = ?", (file_id,)).fetchone() is None:
            raise _unknown(file_id)

    def delete(self, file_id: str) -> None:
        """Forget a file and remove it.

        Raises:
            UnknownFileError: there is none.
            FileInUseError: a job that is not finished has still to read it.
        """
        with self._database.transaction() as connection:
            self.require(file_id, connection)
            jobs = [row["id"] for row in connection.execute(_USED_BY, (*_UNFINISHED, file_id))]
            if jobs:
                raise FileInUseError(
                    f"{file_id} is what {', '.join(jobs[:3])}{' and others' if len(jobs) > 3 else ''} trains on; "
                    "cancel that job, or wait for its end, and delete the file then"
                )
            connection.execute("DELETE FROM files WHERE id = ?", (file_id,))
        with suppress(FileNotFoundError):
            self._path(file_id).unlink()

    def tidy(self) -> None:
        """At start, before any file arrives: settle and remove what a dead process left.

        Files without a row go where this database has known files: one that was put in place of a lost
        one shall not cost what its predecessor kept.
        """
        try:
            self._settle_cut_short()
            known = {self._path(row["id"]) for row in self._database.read("SELECT id FROM files")}
            ever = self._database.read("SELECT 1 FROM sqlite_sequence WHERE name = 'files'")
            landed = [path for path in self._folder.glob("file-*") if path not in known] if ever else []
            for path in [*self._folder.glob(f"{_LANDING}*"), *landed]:
                logger.info("removing %s, left by an earlier process", path.name)
                path.unlink(missing_ok=True)
        except (sqlite3.Error, OSError):  # a full disk: the service starts all the same
            logger.warning("what an earlier process left of uploaded files is still there", exc_info=True)

    def _settle_cut_short(self) -> None:
        if self._database.read("SELECT 1 FROM files WHERE status = 'uploaded'"):
            with self._database.transaction() as connection:
                settle = "UPDATE files SET status = 'error', status_details = ? WHERE status = 'uploaded'"
                connection.execute(settle, (_CUT_SHORT,))

    def _check_room(self, more_bytes: int) -> None:
        check_room(self._folder, min_free_mb=self._min_free_mb, more_bytes=more_bytes)

    def _path(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.jsonl"

    def _file(self, row: sqlite3.Row) -> TrainingFile:
        return TrainingFile(
            id=row["id"],
            filename=row["filename"],
            purpose=row["purpose"],
            bytes=row["bytes"],
            status=FileStatus(row["status"]),
            status_details=row["status_details"],
            format=row["format"],
            samples=row["samples"],
            created_at=datetime.fromisoformat(row["created_at"]),
            path=self._path(row["id"]),
        )


_LISTS = {
    order: f"""
    SELECT * FROM files
    WHERE (:number IS NULL OR number {follows} :number) AND (:purpose IS NULL OR purpose = :purpose)
    ORDER BY number {order} LIMIT :limit"""  # noqa: S608 - of these two alone
    for order, follows in (("asc", ">"), ("desc", "<"))
}


def _unknown(file_id: str) -> UnknownFileError:
    return UnknownFileError(f"no file {file_id[:100]!r}; GET /v1/files lists what there is, POST /v1/files sends one")
