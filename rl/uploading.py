"""Brings sealed shards to a destination, in the background or at once; a state file says what went.

`uploads.json` in the folder of the shards has, per destination and shard that lies there, whether it was
sent, and what an interrupted transfer wants to know. Whoever uploads from a folder holds its lock, so that two
processes never send the same. The order is: shard, its manifest, the state; a kill between two of
them is found out by asking the destination.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import random
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rl.destination import Destination, Outcome, Piece, manifest_name
from rl.errors import RefusedError, UnreachableError, UploadError
from rl.shards import (
    Manifest,
    folder_bytes,
    manifest_path,
    read_manifest,
    run_id_of,
    seal_abandoned,
    sealed_shards,
    sha256_of,
    write_whole,
)

log = logging.getLogger(__name__)

STATE = "uploads.json"
_LOCK = ".uploads.lock"
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 300.0
Wait = Callable[[float], bool]


@dataclass(slots=True)
class Report:
    """What one pass did, by shard; `failed` has the reasons."""

    sent: list[str] = field(default_factory=list)
    already_there: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class UploadState:
    """The state file; each change is on the disk when a method returns, unless that is full.

    A change that cannot be written holds up nothing, for shards that go make room: the destination is asked again.
    """

    def __init__(self, folder: Path, destination: str) -> None:
        self._path = folder / STATE
        self._document: dict[str, Any] = {"version": 1, "destinations": {}}
        try:
            if self._path.is_file():
                self._document = json.loads(self._path.read_text(encoding="utf-8"))
            self._shards: dict[str, dict[str, Any]] = self._document["destinations"].setdefault(destination, {})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RefusedError(
                f"{STATE} is damaged ({error}); remove it: the destination is then asked what is there"
            ) from error

    def is_sent(self, manifest: Manifest) -> bool:
        known = self._shards.get(manifest.shard, {})
        return known.get("status") == "sent" and known.get("sha256") == manifest.sha256

    def sent(self, manifest: Manifest, name: str) -> None:
        self._put(manifest, status="sent", name=name, bytes=manifest.bytes, count=manifest.count)

    def failed(self, manifest: Manifest, reason: str) -> None:
        self._put(manifest, status="failed", reason=reason, notes=dict(self.notes(manifest)))

    def notes_of(self, manifest: Manifest) -> ShardNotes:
        return ShardNotes(self, manifest)

    def notes(self, manifest: Manifest) -> Mapping[str, str]:
        known = self._shards.get(manifest.shard, {})
        found: Mapping[str, str] = known.get("notes", {}) if known.get("sha256") == manifest.sha256 else {}
        return found

    def note(self, manifest: Manifest, notes: Mapping[str, str]) -> None:
        self._put(manifest, status="sending", notes=dict(notes))

    def forget(self, shards: Collection[str]) -> None:
        """Of these, which lie here no more, nothing need be known."""
        for known in self._document["destinations"].values():
            for shard in shards:
                known.pop(shard, None)
        self._write()

    def _put(self, manifest: Manifest, **entry: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._shards[manifest.shard] = {"sha256": manifest.sha256, "at": at, **entry}
        self._write()

    def _write(self) -> None:
        try:
            write_whole(self._path, json.dumps(self._document, ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            log.warning("%s cannot be written: %s", STATE, error, extra={"action": "upload_state_failed"})


@dataclass(frozen=True, slots=True)
class ShardNotes:
    """The notes of one shard's transfer, in the state file."""

    state: UploadState
    manifest: Manifest

    def read(self) -> Mapping[str, str]:
        return self.state.notes(self.manifest)

    def write(self, **notes: str) -> None:
        if notes != self.read():
            self.state.note(self.manifest, notes)


class NoNotes:
    """For a piece too small to go on with."""

    def read(self) -> Mapping[str, str]:
        return {}

    def write(self, **notes: str) -> None:
        """A manifest goes whole."""


class Uploader:
    """Sends the shards of `folder`; `only` keeps it to one run's.

    An unreachable destination is tried `attempts` times, with growing pauses, and as long as it stays so, once
    for each further shard. While the folder holds more
    than `keep_bytes`, shards that went are removed from it, the oldest first; None keeps all.
    """

    def __init__(
        self,
        folder: Path,
        destination: Destination,
        *,
        keep_bytes: int | None = None,
        only: str | None = None,
        attempts: int = 5,
        poll_seconds: float = 60.0,
        wait: Wait | None = None,
    ) -> None:
        self._folder, self._destination = folder, destination
        self._keep_bytes, self._only = keep_bytes, only
        self._attempts, self._poll_seconds = attempts, poll_seconds
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._wait = wait or self._stopping.wait
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="episode-uploads", daemon=True)
        self.sent = 0
        self.last_error: str | None = None

    @property
    def label(self) -> str:
        return self._destination.label

    def waiting(self) -> int:
        """How many sealed shards have not gone yet."""
        if not self._folder.is_dir():
            return 0
        try:
            state = UploadState(self._folder, self._destination.label)
            return sum(not state.is_sent(read_manifest(shard)) for shard in self._shards())
        except (RefusedError, FileNotFoundError):  # damaged, or a shard that went in this moment
            return len(self._shards())

    def start(self) -> None:
        """Send whatever is there, and then whatever comes, on a thread of its own."""
        self._thread.start()

    def wake(self) -> None:
        """A shard was sealed."""
        self._woken.set()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Take no further shard and wait for the thread; what is under way and takes longer resumes another time."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def upload(self) -> Report:
        """Send every shard that has not gone; seal those of dead processes first.

        Raises:
            RefusedError: another process uploads from this folder.
        """
        report = Report()
        if not self._folder.is_dir():
            return report
        with self._lock():
            self._seal_abandoned()
            self._is_away = False
            state = UploadState(self._folder, self._destination.label)
            for shard in self._shards():
                if self._stopping.is_set():
                    break
                self._upload(shard, state, report)
            self._make_room(state)
        return report

    def _seal_abandoned(self) -> None:
        try:
            seal_abandoned(self._folder)
        except OSError as error:  # a full disk; those that are whole may go all the same
            log.warning("shards that were left cannot be sealed: %s", error, extra={"action": "seal_failed"})

    def _make_room(self, state: UploadState) -> None:
        if self._keep_bytes is None:
            return
        held, removed = folder_bytes(self._folder), []
        for shard in self._shards():
            if held <= self._keep_bytes:
                break
            with contextlib.suppress(RefusedError):  # a damaged manifest: it did not go
                if state.is_sent(read_manifest(shard)):
                    held -= shard.stat().st_size + manifest_path(shard).stat().st_size
                    # In this order: a shard without its manifest gets another, a manifest alone would stay for ever.
                    manifest_path(shard).unlink()
                    shard.unlink()
                    removed.append(shard.name)
        if removed:
            state.forget(removed)

    def _shards(self) -> Sequence[Path]:
        shards = sealed_shards(self._folder)
        return shards if self._only is None else [path for path in shards if run_id_of(path.name) == self._only]

    def _upload(self, shard: Path, state: UploadState, report: Report) -> None:
        try:
            manifest = read_manifest(shard)
            if state.is_sent(manifest):
                return
        except (UploadError, OSError) as error:
            self._failed(shard, error, report)
            return
        try:
            outcome = self._send_with_retries(shard, manifest, state)
        except (UploadError, OSError) as error:
            state.failed(manifest, _said(error))
            self._failed(shard, error, report)
            return
        state.sent(manifest, self._destination.place.name_of(shard.name))
        (report.sent if outcome == "sent" else report.already_there).append(shard.name)
        self.sent += 1
        log.info(
            "%s: %s, %d episodes", shard.name, outcome, manifest.count, extra={"action": "upload_done"}
        )  # fmt: skip

    def _failed(self, shard: Path, error: Exception, report: Report) -> None:
        report.failed[shard.name] = self.last_error = _said(error)
        log.warning("%s was not sent: %s", shard.name, error, extra={"action": "upload_failed"})

    def _send_with_retries(self, shard: Path, manifest: Manifest, state: UploadState) -> Outcome:
        pauses = iter(()) if self._is_away else self._pauses()
        while True:
            try:
                outcome = self._send(shard, manifest, state)
            except UnreachableError as error:
                pause = next(pauses, None)
                if pause is None or self._wait(pause):
                    self._is_away = True
                    raise
                log.info("%s; trying again", error, extra={"action": "upload_retry"})
            else:
                self._is_away = False
                return outcome

    def _pauses(self) -> Iterator[float]:
        for attempt in range(self._attempts - 1):
            longest = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt)
            yield random.uniform(longest / 2, longest)  # noqa: S311 - so that many do not come at once

    def _send(self, shard: Path, manifest: Manifest, state: UploadState) -> Outcome:
        if shard.stat().st_size != manifest.bytes or sha256_of(shard) != manifest.sha256:
            raise RefusedError(
                f"{shard.name} is not what its manifest says; it was changed or damaged after it was sealed: "
                "remove the manifest to send it as it is"
            )
        place = self._destination.place
        name = place.name_of(shard.name)
        piece = Piece(shard, name, manifest.bytes, manifest.sha256, "application/x-ndjson")
        outcome = self._destination.send(piece, state.notes_of(manifest))
        if place.takes_manifest:
            self._destination.send(_manifest_piece(shard, name), NoNotes())
        return outcome

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RefusedError(
                    f"another process uploads from {self._folder.name!r}; wait for it, or stop it"
                ) from error
            yield

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                report = self.upload()
                self.last_error = next(iter(report.failed.values()), None)
            except (UploadError, OSError) as error:
                self.last_error = _said(error)
                log.warning("episodes wait: %s", error, extra={"action": "upload_failed"})
            except Exception as error:  # the thread has to outlive what nobody thought of
                self.last_error = f"an unexpected {type(error).__name__}; the log has more"
                log.exception("episodes wait", extra={"action": "upload_failed"})
            self._woken.wait(self._poll_seconds)


def _said(error: Exception) -> str:
    """Without the paths that the system's errors quote: it is shown to callers of the service."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _manifest_piece(shard: Path, shard_name: str) -> Piece:
    path = manifest_path(shard)
    return Piece(path, manifest_name(shard_name), path.stat().st_size, sha256_of(path), "application/json")
