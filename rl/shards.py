"""Episodes on the local disk: files of JSON lines that grow, are sealed, and then never change.

    NAME.jsonl.part     grows; its writer holds a lock on it
    NAME.jsonl          sealed, on the disk
    NAME.manifest.json  written last: lines, bytes, SHA-256; a shard with it is whole and may go

A shard that a dead process left is sealed by whoever comes next (`seal_abandoned`): nothing that was
written is lost, but for a line that the end cut in two.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from rl.episodes import SCHEMA_VERSION, checked_run_id, features, line_of
from rl.errors import RecordError, RefusedError

log = logging.getLogger(__name__)

PART = ".part"
DAMAGED = ".damaged"
MANIFEST = ".manifest.json"
# <name>-<time>-<run id>-<number>.jsonl; the first time is the shard's, for a run id may hold one too.
SHARD = re.compile(r".+?-\d{8}T\d{6}Z-(?P<run_id>[A-Za-z0-9][A-Za-z0-9._-]{0,63})-(?P<number>\d{5,})\.jsonl")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a sealed shard holds; worked out from its content and name alone, so that twice is the same.

    `features` are the types of its fields, for `datasets.Features.from_dict`.
    """

    shard: str
    run_id: str
    schema_version: int
    count: int
    bytes: int
    sha256: str
    first_at: str | None
    last_at: str | None
    features: Mapping[str, Any] = field(default_factory=features)


class ShardWriter:
    """Appends rows to shards in `folder`, for one thread. A shard is begun with its first row.

    A row is in the system's hands when `append` returns: a killed process loses none, a power cut those
    since the last `sync`. No shard is begun while the folder holds `max_folder_bytes`: `append` then raises
    OSError (EDQUOT), as on a disk that is full.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        name: str = "episodes",
        max_bytes: int = 32 << 20,
        max_age_seconds: float = 3600.0,
        max_folder_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._beginning = name
        self._run_id = checked_run_id(run_id)
        self._number = 0
        if (match := SHARD.fullmatch(self._name_now())) is None or match["run_id"] != run_id:
            raise RecordError(
                f"the shards shall be called {name[:80]!r}, under which they are not found again; one line without "
                "a time such as 20260101T000000Z is wanted: choose another"
            )
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._max_folder_bytes = max_folder_bytes
        self._clock = clock
        self._open: _OpenShard | None = None

    def append(self, row: Mapping[str, Any]) -> Path | None:
        """Write one row; one that did not fit on the disk leaves no half line behind.

        Returns:
            The shard that had no room for it, and was sealed.
        """
        line, full = line_of(row), None
        if self._open is not None and self._open.bytes + len(line) > self._max_bytes:
            full = self.seal()
        shard = self._open or self._begin()
        shard.append(line, str(row.get("timestamp")))
        return full

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        if self._open is not None:
            os.fsync(self._open.file.fileno())

    def seal_if_due(self) -> Path | None:
        """Seal the shard that is full or old; returns it."""
        shard = self._open
        if shard is None or (shard.bytes < self._max_bytes and self._clock() < shard.begun_at + self._max_age_seconds):
            return None
        return self.seal()

    def seal(self) -> Path | None:
        """End the shard that grows, if there is one; returns it."""
        if self._open is None:
            return None
        shard, self._open = self._open, None
        return shard.seal()

    def _begin(self) -> _OpenShard:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_room()
        while True:
            name = self._name_now()
            self._number += 1
            with contextlib.suppress(FileExistsError):  # of an earlier process with the same run id
                self._open = _OpenShard(self.folder / name, self._run_id, self._clock())
                return self._open

    def _name_now(self) -> str:
        return f"{self._beginning}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{self._run_id}-{self._number:05d}.jsonl"

    def _check_room(self) -> None:
        held, allowed = folder_bytes(self.folder), self._max_folder_bytes
        if allowed is not None and held >= allowed:
            raise OSError(
                errno.EDQUOT,
                f"the episodes here have {held >> 20} MiB, and {allowed >> 20} are allowed; have them sent, or move "
                "them away",
            )


class _OpenShard:
    """The one file that grows, locked, with its sums up to its last whole line."""

    def __init__(self, path: Path, run_id: str, begun_at: float) -> None:
        self.path = path
        self.begun_at = begun_at
        self.bytes = self.count = 0
        self._run_id = run_id
        self._hash = hashlib.sha256()
        self._first_at: str | None = None
        self._last_at: str | None = None
        self.file = path.with_name(path.name + PART).open("xb", buffering=0)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        if os.fstat(self.file.fileno()).st_nlink == 0:  # taken for abandoned before it was locked
            self.file.close()
            raise FileExistsError(path)
        if path.exists():  # sealed before this one was begun: to seal this one would replace it
            Path(self.file.name).unlink()
            self.file.close()
            raise FileExistsError(path)

    def append(self, line: bytes, at: str) -> None:
        try:
            written = 0
            while written < len(line):
                written += self.file.write(line[written:]) or 0
        except OSError:
            self.file.truncate(self.bytes)
            self.file.seek(self.bytes)
            raise
        self.bytes += len(line)
        self.count += 1
        self._hash.update(line)
        self._first_at, self._last_at = self._first_at or at, at

    def seal(self) -> Path:
        manifest = Manifest(
            self.path.name,
            self._run_id,
            SCHEMA_VERSION,
            self.count,
            self.bytes,
            self._hash.hexdigest(),
            self._first_at,
            self._last_at,
        )
        _seal(self.file, self.path, manifest)
        return self.path


def _seal(file: BinaryIO | Any, path: Path, manifest: Manifest) -> None:
    with file:
        os.fsync(file.fileno())
        path.with_name(path.name + PART).rename(path)
        sync_folder(path.parent)
        _write_manifest(path, manifest)


def _write_manifest(shard: Path, manifest: Manifest) -> None:
    write_whole(manifest_path(shard), json.dumps(asdict(manifest), ensure_ascii=False, indent=1) + "\n")


def manifest_path(shard: Path) -> Path:
    return shard.with_name(shard.name.removesuffix(".jsonl") + MANIFEST)


def read_manifest(shard: Path) -> Manifest:
    """What the manifest of a sealed shard says.

    Raises:
        RefusedError: it was damaged, or another version of this package wrote it.
    """
    path = manifest_path(shard)
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RefusedError(
            f"{path.name} is no manifest of this version ({error}); remove it, and it is made anew"
        ) from error


def folder_bytes(folder: Path) -> int:
    """Size of all files of a flat folder; those that go in this moment count as nothing."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def run_id_of(shard: str) -> str:
    """Of a shard, by its name.

    Raises:
        RecordError: it is no shard's name.
    """
    match = SHARD.fullmatch(shard)
    if match is None:
        raise RecordError(f"{shard!r} is not a shard's name; send files that this package wrote")
    return match["run_id"]


def sealed_shards(folder: Path) -> list[Path]:
    """Shards with their manifest, oldest first."""
    found = [path for path in folder.glob("*.jsonl") if SHARD.fullmatch(path.name) and manifest_path(path).is_file()]
    return sorted(found, key=lambda path: path.name)


def seal_abandoned(folder: Path) -> list[Path]:
    """Seal what dead processes left, growing or without its manifest; returns those shards.

    What a living process writes is left alone: it holds a lock.
    """
    sealed = []
    for part in sorted(folder.glob(f"*.jsonl{PART}")):
        with contextlib.suppress(FileNotFoundError):  # its writer sealed it in this moment
            if SHARD.fullmatch(part.name.removesuffix(PART)) and (shard := _seal_part(part)):
                sealed.append(shard)
    for path in sorted(folder.glob("*.jsonl")):
        if SHARD.fullmatch(path.name) and not manifest_path(path).is_file():
            _write_manifest(path, _manifest_of(path))
            sealed.append(path)
    return sealed


def _seal_part(part: Path) -> Path | None:
    with part.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not part.exists():  # sealed between opening and locking
            return None
        _cut_torn_end(file, part)
        if os.fstat(file.fileno()).st_size == 0:
            part.unlink()
            return None
        path = part.with_name(part.name.removesuffix(PART))
        os.fsync(file.fileno())
        part.rename(path)
        sync_folder(path.parent)
        _write_manifest(path, _manifest_of(path))
    log.info("%s was left by a process that ended, and is sealed", path.name, extra={"action": "shard_sealed"})
    return path


def _cut_torn_end(file: BinaryIO, part: Path) -> None:
    """Move what stands behind the last whole line of JSON to a file of its own: readers would stumble over it."""
    good = 0
    for line in file:
        if not line.endswith(b"\n") or not _is_row(line):
            break
        good += len(line)
    file.seek(good)
    torn = file.read()
    if torn:
        beside = part.with_name(part.name.removesuffix(PART) + DAMAGED)
        beside.write_bytes(torn)
        log.warning(
            "%s: the last %d bytes are no whole lines, and are in %s", part.name, len(torn), beside.name,
            extra={"action": "shard_torn"},
        )  # fmt: skip
        file.truncate(good)


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _manifest_of(path: Path) -> Manifest:
    """Work out what a sealed shard holds by reading it."""
    digest, count, size = hashlib.sha256(), 0, 0
    first = last = b""
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            size += len(line)
            count += 1
            first, last = first or line, line
    times = (_time_of(first), _time_of(last))
    return Manifest(path.name, run_id_of(path.name), SCHEMA_VERSION, count, size, digest.hexdigest(), *times)


def _time_of(line: bytes) -> str | None:
    """Of a whole row; None for anything else that a damaged shard may hold."""
    try:
        return str(json.loads(line)["timestamp"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write `text` so that `path` holds the old content or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp's files are the owner's alone
        Path(name).replace(path)
        sync_folder(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)
