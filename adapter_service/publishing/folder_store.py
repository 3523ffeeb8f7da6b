"""Versions in a folder that other machines see too: a NAS share, a USB disk.

A version is gathered in `<adapter>/.<key>.<writer>`, written to the disk, and renamed to
`<adapter>/<key>`: a reader, and a second writer, see it whole or not at all.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapter_service import adapter_names
from adapter_service.adapters.artifact import KEY_PATTERN, MANIFEST
from adapter_service.durable import sync, sync_names
from adapter_service.errors import StoreError, StoreUnreachableError
from adapter_service.publishing.copying import copy_bounded, described_file, receive
from adapter_service.publishing.manifest import MAX_MANIFEST_BYTES, StoredFile
from adapter_service.publishing.store import Place, Store


class FolderStore(Store):
    """`root` has to exist: a share that is not mounted shall be an error, not a folder on this disk.

    `writer` is a name for whoever pushes, the same after a restart, so that what was cut short is taken up again.
    """

    def __init__(self, name: str, root: Path, *, writer: str) -> None:
        self.name = name
        self.shown = str(root)
        self._root = root
        self._writer = writer

    def places(self, adapter: str | None = None) -> Iterator[Place]:
        with self._translated("listed"):
            self._check_root()
            for folder in sorted(self._root.iterdir()):
                if adapter_names.fault_of(folder.name) is None and adapter in {None, folder.name} and folder.is_dir():
                    yield from self._versions_in(folder)

    def _versions_in(self, folder: Path) -> Iterator[Place]:
        for version in sorted(folder.iterdir()):
            if re.fullmatch(KEY_PATTERN, version.name) and (version / MANIFEST).is_file():
                yield Place(folder.name, version.name)

    def manifest(self, place: Place) -> bytes | None:
        with self._translated(f"asked for {place}"):
            self._check_root()
            try:
                with (self._folder(place) / MANIFEST).open("rb") as file:
                    return file.read(MAX_MANIFEST_BYTES + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def has(self, place: Place, name: str, wanted: StoredFile) -> bool:
        with self._translated(f"asked for {name} of {place}"):
            path = self._work(place) / name
            return path.is_file() and path.stat().st_size == wanted.size_bytes and described_file(path) == wanted

    def put(self, place: Place, name: str, path: Path, wanted: StoredFile) -> None:
        with self._translated(f"written to at {place}"):
            self._check_root()
            work = self._work(place)
            work.mkdir(parents=True, exist_ok=True)
            self._write(work / name, path, wanted.size_bytes)

    def complete(self, place: Place, manifest: bytes) -> None:
        work, target = self._work(place), self._folder(place)
        with self._translated(f"written to at {place}"):
            with (work / MANIFEST).open("wb") as file:
                file.write(manifest)
            sync(work / MANIFEST)
            sync_names(work)
            try:
                work.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                if not (target / MANIFEST).is_file():
                    raise StoreUnreachableError(
                        f"store {self.name!r} has a folder {place} without a manifest, and nothing is overwritten; "
                        "let whatever copies it there end, or remove it"
                    ) from error
                shutil.rmtree(work)
                raise StoreUnreachableError(
                    f"another machine has pushed {place} to {self.name!r} meanwhile; what it pushed is compared"
                ) from error
            sync_names(target.parent)
            sync_names(self._root)

    def get(self, place: Place, name: str, target: Path, limit_bytes: int) -> None:
        source = self._folder(place) / name
        with self._translated(f"read at {place}"):
            if source.is_symlink() or not source.is_file():
                raise StoreError(f"{name} of {place} in store {self.name!r} is no plain file; push the version again")
            with source.open("rb") as file:
                receive(file, target, limit_bytes)

    def _write(self, target: Path, source: Path, size_bytes: int) -> None:
        part = target.with_name(f".{target.name}.part")
        with source.open("rb") as file, part.open("wb") as out:
            copy_bounded(file, out, size_bytes)
        part.replace(target)

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise StoreUnreachableError(
                f"store {self.name!r}: there is no folder {self._root}; mount the share, or make the folder"
            )

    def _folder(self, place: Place) -> Path:
        return self._root / place.adapter / place.key

    def _work(self, place: Place) -> Path:
        return self._root / place.adapter / f".{place.key}.{self._writer}"

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnreachableError(
                f"store {self.name!r} ({self.shown}) cannot be {doing}: {error.strerror or error}; "
                "check that the share is mounted, has room, and may be read and written to"
            ) from error
