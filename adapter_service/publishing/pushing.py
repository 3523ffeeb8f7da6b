"""One version into one store: its files first, its manifest last, nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapter_service.adapters import Version
from adapter_service.adapters.artifact import verify_folder
from adapter_service.adapters.lease import leased
from adapter_service.errors import StoreError, UnknownAdapterError
from adapter_service.publishing.manifest import StoredFile, StoredVersion, manifest_of, parse_manifest
from adapter_service.publishing.store import Place, Store


@dataclass(frozen=True, slots=True)
class Pushed:
    """Which files were sent, and which lay there already."""

    sent: tuple[str, ...]
    found: tuple[str, ...]


def push(version: Version, store: Store, stopping: Callable[[], bool] = lambda: False) -> Pushed | None:
    """Put `version` into `store`; None when `stopping` said so in between.

    Cut short at any moment, the next call goes on with the first file that is not there yet.

    Raises:
        AdapterFormatError: its files here are damaged; what is damaged is not pushed.
        StoreUnreachableError: it may come to something later.
        StoreError: another version lies there under the same key.
    """
    try:
        with leased(version.path):
            verify_folder(version.path)
            return _push(version, manifest_of(version), store, stopping)
    except FileNotFoundError as error:
        raise UnknownAdapterError(f"{version.reference} was removed; there is nothing to push any more") from error


def _push(version: Version, manifest: StoredVersion, store: Store, stopping: Callable[[], bool]) -> Pushed | None:
    place, sent, found = Place(version.adapter, version.key), [], []
    if _lies_there(place, manifest, store):
        return Pushed((), tuple(manifest.files))
    for name, wanted in manifest.files.items():
        if stopping():
            return None
        if store.has(place, name, wanted):
            found.append(name)
        else:
            send_file(store, place, name, version.path / name, wanted)
            sent.append(name)
    store.complete(place, manifest.to_bytes())
    return Pushed(tuple(sent), tuple(found))


def send_file(store: Store, place: Place, name: str, path: Path, wanted: StoredFile) -> None:
    """Send one file: every byte that goes to a store goes through here, but for the manifest.

    A test that wants to end the process during an upload replaces this function
    (`adapter_service.publishing.pushing.send_file`): before the call nothing of the file is there, after it all
    of it, and the version itself is not there before `store.complete`.
    """
    store.put(place, name, path, wanted)


def _lies_there(place: Place, manifest: StoredVersion, store: Store) -> bool:
    content = store.manifest(place)
    if content is None:
        return False
    there = parse_manifest(content, f"of {place} in store {store.name!r}")
    if there.content != manifest.content:
        raise StoreError(
            f"store {store.name!r} has a version with the key of {manifest.reference} ({place.key[:12]}) and other "
            "weights, and nothing is overwritten; pull that one under another name, or remove it there"
        )
    return True
