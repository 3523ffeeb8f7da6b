"""From a store to a version here: found, compared with the base, copied, checked, and only then a row."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_service.adapters import Version, VersionStore, check_name
from adapter_service.adapters.artifact import REQUIRED_FILES
from adapter_service.adapters.lease import Lease, unused
from adapter_service.errors import AdapterFormatError, ConflictError, StoreError, UnknownAdapterError
from adapter_service.publishing.copying import described_file
from adapter_service.publishing.judging import judge_files
from adapter_service.publishing.manifest import StoredFile, StoredVersion, files_of, megabytes, parse_manifest
from adapter_service.publishing.store import Place, Store
from adapter_service.suggestions import did_you_mean

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseOutline

_WORK_PREFIX = "pull-"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a store has; `faults` are places whose manifests cannot be read, with the reason."""

    versions: tuple[StoredVersion, ...]
    faults: tuple[str, ...]


def list_store(store: Store, adapter: str | None = None) -> Listing:
    """Every version in the store, by adapter, newest first."""
    versions, faults = [], []
    for place in store.places(adapter):
        try:
            versions.append(read_place(store, place))
        except AdapterFormatError as error:
            faults.append(str(error))
    versions.sort(key=lambda version: version.created_at, reverse=True)
    versions.sort(key=lambda version: version.adapter)
    return Listing(tuple(versions), tuple(faults))


def read_place(store: Store, place: Place) -> StoredVersion:
    """What lies at a place.

    Raises:
        UnknownAdapterError: nothing does.
        AdapterFormatError: its manifest is none, or speaks of another place.
    """
    content = store.manifest(place)
    if content is None:
        raise UnknownAdapterError(f"store {store.name!r} has nothing at {place}; list it to see what there is")
    found = parse_manifest(content, f"of {place} in store {store.name!r}")
    if (found.adapter, found.key) != (place.adapter, place.key):
        raise AdapterFormatError(
            f"the manifest of {place} in store {store.name!r} speaks of {found.adapter}/{found.key}; push it again"
        )
    return found


def choose(store: Store, reference: str) -> StoredVersion:
    """The newest version of `name`; with `name@number` or `name@key` (its first digits will do) that one.

    Raises:
        UnknownAdapterError: there is none such; says which there are.
        ConflictError: two machines pushed one of that number.
    """
    name, at, which = reference.partition("@")
    check_name(name)
    listing = list_store(store, name)
    fitting = [version for version in listing.versions if not at or _is_meant(version, which)]
    if not fitting:
        raise _unknown(store, reference, listing)
    if at and len({version.key for version in fitting}) > 1:
        keys = ", ".join(f"{name}@{version.key[:12]}" for version in fitting)
        raise ConflictError(f"store {store.name!r} has several versions that {reference!r} may mean; name one: {keys}")
    return fitting[0]


def _is_meant(version: StoredVersion, which: str) -> bool:
    if which.isdecimal() and len(which) < 10:
        return version.number == int(which)
    return len(which) >= 8 and version.key.startswith(which)


def _unknown(store: Store, reference: str, listing: Listing) -> UnknownAdapterError:
    if listing.faults:
        return UnknownAdapterError(f"store {store.name!r} has no {reference!r} that can be read: {listing.faults[0]}")
    if listing.versions:
        there = ", ".join(f"{version.reference} ({version.key[:12]})" for version in listing.versions)
        return UnknownAdapterError(f"store {store.name!r} has no {reference!r}; it has {there}")
    names = sorted({place.adapter for place in store.places()})
    name = reference.partition("@")[0]
    known = f"it has {', '.join(names)}" if names else "it is empty"
    return UnknownAdapterError(f"store {store.name!r} has no adapter {name!r}{did_you_mean(name, names)} {known}")


def pull(
    found: StoredVersion,
    store: Store,
    versions: VersionStore,
    outline: Callable[[], BaseOutline],
    *,
    name: str,
    work_dir: Path,
    max_bytes: int,
) -> Version:
    """Make a candidate here, called `name`, of what lies in the store; one that is here already is returned.

    Raises:
        AdapterFormatError: it is not fit to be served with the base that `outline` tells of, or is here and damaged.
        ConflictError: a version with the same key and other weights is here.
        StoreError: the store does not give what its manifest says.
    """
    check_name(name)
    _check_same_where_here(found, versions)
    if (here := versions.find(name, found.key)) is not None:
        versions.verify(here)
        return here
    if found.size_bytes > max_bytes:
        raise AdapterFormatError(
            f"{found.reference} has {megabytes(found.size_bytes)}, more than publishing.max_pull_mb allows "
            f"({megabytes(max_bytes)}); raise that, if it is meant"
        )
    base = outline()
    check_base(found, base)
    with _work_folder(work_dir) as work:
        _copy(found, store, work)
        judge_files(work, base)
        return versions.publish(
            name,
            work,
            key=found.key,
            job_id=None,
            base_id=found.base_id,
            parent_key=found.parent_key,
            gate={"verdict": "pulled", "store": store.name, "version": found.reference, "there": dict(found.gate)},
        )


def check_base(found: StoredVersion, base: BaseOutline) -> None:
    """Raise AdapterFormatError for a version of another base than this one, or of another tokenizer."""
    if found.base_id != base.identity:
        raise AdapterFormatError(
            f"{found.reference} was trained on {found.base_name!r} ({found.base_id[:12]}), and the base here is "
            f"{base.name!r} ({base.identity[:12]}): its weights or its tokenizer are others. Set model.base and "
            "model.tokenizer to those, or train the adapter on this one"
        )


def _check_same_where_here(found: StoredVersion, versions: VersionStore) -> None:
    """A key stands for one content, here under any name: the engine remembers what it has loaded by it."""
    for version in versions.list():
        if version.key == found.key and _content(version) != found.content:
            raise ConflictError(
                f"{version.reference} has the key of {found.reference} ({found.key[:12]}) and other weights; "
                "one of the two is not what it says: verify both"
            )


def _content(version: Version) -> dict[str, StoredFile]:
    files = files_of(version)
    return {name: files[name] for name in sorted(REQUIRED_FILES)}


def _copy(found: StoredVersion, store: Store, work: Path) -> None:
    place = Place(found.adapter, found.key)
    for name, wanted in found.files.items():
        target = work / name
        store.get(place, name, target, wanted.size_bytes)
        if (came := described_file(target)) != wanted:
            raise StoreError(
                f"{name} of {found.reference} in store {store.name!r} has {came.size_bytes} bytes or more and the hash "
                f"{came.sha256[:12]} where its manifest has {wanted.size_bytes} and {wanted.sha256[:12]}; push it again"
            )


@contextmanager
def _work_folder(work_dir: Path) -> Iterator[Path]:
    """An empty folder that is gone at the end; those that killed processes left are removed first."""
    work_dir.mkdir(parents=True, exist_ok=True)
    with unused(work_dir, wait=True):  # one pull at a time: a folder that has no lease yet looks like one that was left
        for left in work_dir.glob(f"{_WORK_PREFIX}*"):
            with unused(left, wait=False) as free:
                if free:
                    shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=work_dir))
        lease = Lease(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lease.release()
