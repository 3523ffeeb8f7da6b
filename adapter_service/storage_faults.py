"""Disks and databases that take nothing: what the system says of them as an error of ours, with what to do.

Full, read-only, locked, broken: none of it is a fault of the request or of the job that met it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
from pathlib import Path

from adapter_service.durable import sync
from adapter_service.errors import StorageError, StorageFullError

_NOTHING_LOST = "what was accepted before is kept"
_FULL = StorageFullError, f"is full; make room: {_NOTHING_LOST}, and waiting jobs go on by themselves"
_READ_ONLY = StorageError, f"cannot be written; make it writable for the user of the service: {_NOTHING_LOST}"
_BROKEN = StorageError, "has an input or output error; look at the system's log, and copy the state folder elsewhere"
_LOCKED = StorageError, f"is locked by another process; end that one, or try again: {_NOTHING_LOST}"
_DAMAGED = StorageError, "is damaged; stop the service, and restore a backup of the state folder"

_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_IOERR: _BROKEN,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_BY_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,  # the limit of one file's size (ulimit -f)
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EIO: _BROKEN,
}
# safetensors is written in Rust, whose errors have the number in their text alone.
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")


def storage_fault(error: BaseException) -> StorageError | None:
    """`error` in our words, where it says that storage does not take what it should; None for any other."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)  # an extended one has the plain one in its lowest byte
        found, where = None if code is None else _BY_SQLITE_CODE.get(code & 0xFF), "the state database"
    else:
        found, where = _BY_ERRNO.get(_errno(error)), "the disk of the state folder"
    if found is None:
        return None
    kind, says = found
    return kind(f"{where} {says} ({_reason(error)})")


def check_storage(folder: Path, *, min_free_mb: int) -> None:
    """Find out whether `folder` takes what a job writes: there is room, and a small file arrives on the disk.

    Raises:
        StorageError: it does not; says why.
    """
    try:
        check_room(folder, min_free_mb=min_free_mb)
        probe = folder / ".probe"
        probe.write_bytes(b"written before a job begins, to see whether that is possible\n")
        sync(probe)
        probe.unlink()
    except OSError as error:
        raise storage_fault(error) or StorageError(f"the state folder cannot be used ({_reason(error)})") from error


def check_room(folder: Path, *, min_free_mb: int, more_bytes: int = 0) -> None:
    """Find out whether `min_free_mb` are free on the disk of `folder`, also with `more_bytes` written to it.

    Raises:
        StorageFullError: they are not.
        OSError: the disk cannot be asked.
    """
    free_mb = (shutil.disk_usage(folder).free - more_bytes) >> 20
    if free_mb < min_free_mb:
        wished = f" beside the {more_bytes >> 20} that are to be written" if more_bytes else ""
        raise StorageFullError(
            f"{max(0, free_mb)} MiB are free on the disk of the state folder{wished}, and storage.min_free_mb is "
            f"{min_free_mb}; make room, or lower that: until then no job begins and no file is taken"
        )


def _errno(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    in_text = _RUST_ERRNO.search(str(error))
    return int(in_text[1]) if in_text else 0


def _reason(error: BaseException) -> str:
    """What the system calls it, without the path that an OSError's text has."""
    return os.strerror(number) if (number := _errno(error)) else str(error)
