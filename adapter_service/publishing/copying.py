"""Bytes from one place to another: bounded, hashed on the way, and on the disk at the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from adapter_service.publishing.manifest import StoredFile

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
