"""Who still reads an adapter's folder: a lock on the folder, which ends with the process that holds it.

A version can be removed while requests wait for it, by this process or by another: its row goes
first, so that nobody new finds it, and its files when the last of those who had found it is done.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Lease:
    """Keeps a folder from being deleted until `release`, which may be called more than once, on any thread.

    Raises:
        FileNotFoundError: the folder is gone, or going.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise FileNotFoundError(folder) from error

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def leased(folder: Path) -> Iterator[None]:
    lease = Lease(folder)
    try:
        yield
    finally:
        lease.release()


@contextmanager
def unused(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Inside nobody else holds a lease on `folder`; False when someone does and `wait` is false, or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        locked = False
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # While it was waited for, another may have put a new folder into the place of this one.
            locked = folder.is_dir() and os.fstat(descriptor).st_ino == folder.stat().st_ino
        yield locked
    finally:
        os.close(descriptor)
