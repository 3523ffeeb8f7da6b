"""Artifacts in a folder, on this disk or a NAS, that this service hands out itself by signed URLs.

Beside each object lies what is known of it, as JSON. An object is gathered under another name beside its
own, written to the disk, and then gets its name, which no other file may have.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from adapter_service.delivery.artifact_store import FILENAME, Artifact, ArtifactStore, check_scope
from adapter_service.delivery.signed_urls import Grant, UrlSigner
from adapter_service.durable import rename_new, sync, sync_names
from adapter_service.errors import StoreError, StoreUnreachableError, UnknownArtifactError
from adapter_service.publishing.copying import copy_bounded, described_file
from adapter_service.publishing.manifest import StoredFile

ROUTE = "/api/v0/artifacts"
_GONE = "the adapter was fetched or has expired; post the commands again to have it published"
_METADATA = "artifact.json"
_PART = f".{FILENAME}.part"


class FolderArtifacts(ArtifactStore):
    """`root` has to exist: a share that is not mounted shall be an error, not a folder on this disk.

    `public_url` is what nodes reach this service by.
    """

    def __init__(
        self,
        root: Path,
        *,
        prefix: str = "",
        public_url: str,
        signer: UrlSigner,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.shown = str(root)
        self.prefix = prefix.strip("/")
        self._root = root
        self._public_url = public_url.rstrip("/")
        self._signer = signer
        self._now = now

    def put(self, key: str, artifact: Artifact) -> bool:
        target = self._path(key)
        wanted = StoredFile(size_bytes=artifact.size_bytes, sha256=artifact.sha256)
        with self._translated("written to"):
            self._check_root()
            if target.is_file():
                return described_file(target) == wanted
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(_PART)
            with artifact.path.open("rb") as file, part.open("wb") as out:
                copy_bounded(file, out, artifact.size_bytes)
            if described_file(part) != wanted:
                part.unlink()
                raise StoreUnreachableError(f"what was written to {self.shown} is not what was sent; it is sent again")
            self._describe(target.with_name(_METADATA), artifact)
            try:
                rename_new(part, target)
            except FileExistsError:
                part.unlink()
                return described_file(target) == wanted
            for folder in self._folders(target):
                sync_names(folder)
            sync_names(self._root)
        return True

    def delete(self, key: str) -> None:
        """The object first; then what lay beside it, and the folders that are empty now."""
        target = self._path(key)
        with self._translated("deleted from"):
            self._check_root()
            for path in (target, target.with_name(_METADATA), target.with_name(_PART)):
                path.unlink(missing_ok=True)
            for folder in self._folders(target):
                with suppress(FileNotFoundError):
                    sync_names(folder)
                    if any(folder.iterdir()):
                        break
                    folder.rmdir()

    def url(self, key: str, *, node_id: str, expires_at: datetime) -> str:
        check_scope(key, node_id)
        if expires_at <= self._now():
            raise UnknownArtifactError(
                f"the adapter was there until {expires_at.isoformat()}; post the commands again to have it published"
            )
        token = self._signer.token(Grant(key, node_id, expires_at))
        return f"{self._public_url}{ROUTE}/{token}/{FILENAME}"

    def grant(self, token: str) -> Grant:
        """What a token is good for.

        Raises:
            BadLinkError: it is not one of ours, was altered, or is too old.
        """
        return self._signer.grant(token)

    def file(self, key: str) -> tuple[Path, os.stat_result]:
        """Where an object lies, and what the file system says of it.

        Raises:
            UnknownArtifactError: it was deleted.
        """
        path = self._path(key)
        with self._translated("read"):
            self._check_root()
            try:
                found = path.lstat()
            except FileNotFoundError as error:
                raise UnknownArtifactError(_GONE) from error
            if not stat.S_ISREG(found.st_mode) or not path.resolve().is_relative_to(self._root.resolve()):
                raise UnknownArtifactError(_GONE)
        return path, found

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts):
            raise StoreError(f"there can be no object {key[:200]!r}; only keys that this service makes are used")
        return self._root.joinpath(*parts)

    def _folders(self, target: Path) -> Iterator[Path]:
        """Those between an object and the root, from below."""
        for folder in target.parents:
            if folder == self._root:
                return
            yield folder

    @staticmethod
    def _describe(path: Path, artifact: Artifact) -> None:
        described = {**artifact.metadata, "sha256": artifact.sha256, "size_bytes": artifact.size_bytes}
        path.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(path)

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise StoreUnreachableError(
                f"there is no folder {self._root} for artifacts; mount the share, or make the folder"
            )

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            raise StoreUnreachableError(
                f"{self.shown} cannot be {doing}: {reason}; check that the share is mounted, has room, and may be "
                "read and written to"
            ) from error
