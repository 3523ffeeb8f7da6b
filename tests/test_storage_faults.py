"""What the system says of a disk or a database, in our words: what is wrong, and what to do."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from adapter_service import storage_faults
from adapter_service.errors import StorageError, StorageFullError
from adapter_service.storage_faults import check_storage, storage_fault
from tests.conftest import ROOT


def of_sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (of_sqlite(sqlite3.SQLITE_FULL), StorageFullError, "the state database is full; make room"),
        (of_sqlite(sqlite3.SQLITE_BUSY), StorageError, "locked by another process; end that one"),
        (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), StorageError, "locked by another process"),
        (of_sqlite(sqlite3.SQLITE_READONLY_DIRECTORY), StorageError, "make it writable for the user of the service"),
        (of_sqlite(sqlite3.SQLITE_IOERR_FSYNC), StorageError, "look at the system's log"),
        (of_sqlite(sqlite3.SQLITE_CORRUPT), StorageError, "restore a backup"),
        (OSError(errno.ENOSPC, "No space left on device", "/secret/x"), StorageFullError, "No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageFullError, "make room"),
        (OSError(errno.EROFS, "Read-only file system", "/secret/x"), StorageError, "make it writable"),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/x"), StorageError, "make it writable"),
        (OSError(errno.EIO, "Input/output error", "/secret/x"), StorageError, "look at the system's log"),
    ],
)
def test_a_fault_of_storage_says_what_is_wrong_and_what_to_do(
    error: Exception, kind: type[StorageError], says: str
) -> None:
    fault = storage_fault(error)
    assert type(fault) is kind
    assert says in str(fault)
    assert "secret" not in str(fault)


@pytest.mark.parametrize(
    "error",
    [
        of_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        KeyError("loss"),
    ],
)
def test_any_other_error_is_none_of_storage(error: Exception) -> None:
    assert storage_fault(error) is None


def test_a_full_disk_is_recognized_in_what_safetensors_raises(tmp_path: Path) -> None:
    """In a process of its own, which may write files of 4 KiB and no larger ones."""
    program = """
        import resource, sys, torch
        from adapter_service.storage_faults import storage_fault
        from safetensors.torch import save_file
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            save_file({"x": torch.zeros(4096)}, sys.argv[1])
        except Exception as error:
            print(type(error).__name__, storage_fault(error).code)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["SafetensorError", "storage_full"]


def test_a_folder_that_takes_a_file_is_well_and_nothing_stays_in_it(tmp_path: Path) -> None:
    check_storage(tmp_path, min_free_mb=0)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(StorageFullError, match=r"\d+ MiB are free .* storage.min_free_mb is 999999999; make room"):
        check_storage(tmp_path, min_free_mb=999_999_999)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        check_storage(tmp_path / "gone", min_free_mb=0)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StorageFullError), (errno.EROFS, StorageError)])
def test_a_disk_that_refuses_a_small_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StorageError]
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, "refused", str(path))

    monkeypatch.setattr(storage_faults, "sync", refuse)
    with pytest.raises(StorageError) as raised:
        check_storage(tmp_path, min_free_mb=0)
    assert type(raised.value) is kind
