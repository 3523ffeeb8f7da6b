"""Shards to a folder: a disk, or a share that is mounted (NAS)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from rl.destination import Notes, Outcome, Piece, Place
from rl.errors import DifferentError, RefusedError, UnreachableError
from rl.shards import sha256_of, sync_folder

_BLOCK = 1 << 20
_UNFINISHED = ".unfinished"


class FolderDestination:
    """Below `root`, which has to exist: a temporary file beside the target gets its name once it is on the disk."""

    def __init__(self, root: Path, place: Place) -> None:
        self._root = root
        self.place = place
        self.label = f"file://{root / place.path}"

    def send(self, piece: Piece, notes: Notes) -> Outcome:  # noqa: ARG002 - a copy begins anew
        target = self._root / piece.name
        if not self._root.is_dir():
            # Made here, it would fill this disk and hide the share once that is mounted.
            raise RefusedError(f"{self.label}: there is no folder {str(self._root)!r}; make it, or mount the share")
        try:
            if target.exists():
                return _same(target, piece)
            target.parent.mkdir(parents=True, exist_ok=True)
            _forget_unfinished(target)
            return _copy(piece, target)
        except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            raise RefusedError(f"{self.label}: {error.strerror}; make it a folder that may be written to") from error
        except OSError as error:  # a full disk, or a share that is away
            raise UnreachableError(
                f"{self.label}: {error.strerror or error}; trying again helps once it is back"
            ) from error


def _same(target: Path, piece: Piece) -> Outcome:
    if target.stat().st_size == piece.bytes and sha256_of(target) == piece.sha256:
        return "already there"
    raise DifferentError(
        f"{target.name} is there already with another content; nothing is overwritten: use another path"
    )


def _forget_unfinished(target: Path) -> None:
    """Remove what a copy that was killed left; one uploader works on a folder of shards at a time."""
    for path in target.parent.glob(f".{target.name}.*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def _copy(piece: Piece, target: Path) -> Outcome:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=_UNFINISHED)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, piece.path.open("rb") as source:
            shutil.copyfileobj(source, file, _BLOCK)
            file.flush()
            os.fsync(file.fileno())
        _check(unfinished, piece)
        unfinished.chmod(0o644)  # mkstemp's files are the owner's alone
        outcome = _name_it(unfinished, target, piece)
        sync_folder(target.parent)
        return outcome
    finally:
        unfinished.unlink(missing_ok=True)


def _check(copied: Path, piece: Piece) -> None:
    with copied.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != piece.sha256:
        raise UnreachableError(f"{piece.name} reads back with another SHA-256 than it was written with; check the disk")


def _name_it(unfinished: Path, target: Path, piece: Piece) -> Outcome:
    try:
        os.link(unfinished, target)  # unlike a rename, this never replaces what has the name
    except FileExistsError:
        return _same(target, piece)
    except OSError:  # a share without hard links
        if target.exists():
            return _same(target, piece)
        unfinished.rename(target)
    return "sent"
