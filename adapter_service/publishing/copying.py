"""Bytes from one place to another: bounded, hashed on the way, and on the disk at the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from adapter_service.publishing.manifest import StoredFile
from adapter_service.storage_faults import storage_fault

_BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def copy_bounded(source: Readable, target: IO[bytes], limit_bytes: int) -> None:
    """Copy to the end of `source`, or to the first block past `limit_bytes`, then wait for the disk."""
    copied = 0
    for block in _blocks(source):
        copied += target.write(block)
        if copied > limit_bytes:
            break
    target.flush()
    os.fsync(target.fileno())


def receive(source: Readable, target: Path, limit_bytes: int) -> None:
    """`copy_bounded` into a file of this machine: what its disk says is no fault of the store.

    Raises:
        StorageError: the disk of this machine does not take it.
    """
    copied = 0
    with target.open("wb") as out:
        for block in _blocks(source):
            with _this_disk():
                copied += out.write(block)
            if copied > limit_bytes:
                break
        with _this_disk():
            out.flush()
            os.fsync(out.fileno())


@contextmanager
def _this_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_fault(error) or error from error


def described(source: Readable) -> StoredFile:
    """Size and hash of what can be read from `source`."""
    digest, size = hashlib.sha256(), 0
    for block in _blocks(source):
        digest.update(block)
        size += len(block)
    return StoredFile(size_bytes=size, sha256=digest.hexdigest())


def described_file(path: Path) -> StoredFile:
    with path.open("rb") as file:
        return described(file)


def _blocks(source: Readable) -> Iterator[bytes]:
    while block := source.read(_BLOCK_BYTES):
        yield block
