"""Files and folders that a power cut leaves whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

# What file systems say that know no second name of a file: exFAT, and shares of other systems.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
# What a network file system says where a folder's names cannot be waited for.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES})


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """`sync` for a folder that may lie on another machine: where nothing can be waited for, nothing is."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """`sync` for every file of a flat folder, and for the folder."""
    for path in sorted(folder.iterdir()):
        sync(path)
    sync(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, and what is missing above it; the disk has their names when this returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file, and overwrite nothing; making the new name durable is the caller's part.

    Raises:
        FileExistsError: there is such a file.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():  # a look and a rename are two steps: the best that there is here
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.rename(target)
    else:
        source.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write `text` so that `path` holds the old content or the new one, never a part.

    When this returns the disk has the new one under its name.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp's files are the owner's alone
        Path(name).replace(path)
        sync(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)
