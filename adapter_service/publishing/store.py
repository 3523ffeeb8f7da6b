"""The one seam to wherever versions lie for others: a folder on a share, or a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapter_service.publishing.manifest import StoredFile


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where one version lies in a store: `<adapter>/<key>/`."""

    adapter: str
    key: str

    def __str__(self) -> str:
        return f"{self.adapter}/{self.key}"


class Store(Protocol):
    """Versions by their content: what lies at a place never changes.

    A version is there when its manifest is; before that, its files are nobody's business but the
    pusher's, and one that has been put stays put, so that a push that was cut short goes on where it
    was. Nothing is ever overwritten.

    Every method may raise StoreUnreachableError (try later) or StoreError (it would not help).
    """

    name: str
    shown: str
    """The store's address for people: without secrets."""

    def places(self, adapter: str | None = None) -> Iterator[Place]:
        """Where whole versions lie, of one adapter or of all, in any order."""

    def manifest(self, place: Place) -> bytes | None:
        """The manifest's bytes, not more than a little over what a manifest may have; None if there is none."""

    def has(self, place: Place, name: str, wanted: StoredFile) -> bool:
        """Whether the file has been put there.

        Raises:
            StoreError: another file lies under that name.
        """

    def put(self, place: Place, name: str, path: Path, wanted: StoredFile) -> None:
        """Put a file there, whole or not at all."""

    def complete(self, place: Place, manifest: bytes) -> None:
        """Write the manifest: from now on the version is there."""

    def get(self, place: Place, name: str, target: Path, limit_bytes: int) -> None:
        """Copy a file to `target`, and stop past `limit_bytes`: whoever calls this compares what came."""
