"""The one seam to wherever a node's `adapter.zip` lies until it is fetched: a folder, or a bucket.

Objects are called `<prefix>/<node>/<base>/<dataset hash>/<time>/adapter.zip`; what is not a plain letter of
a node's or a base's name is written as `%XX`, so that none can name a place beside its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from adapter_service.delivery.deliveries import Delivery
from adapter_service.errors import StoreError

FILENAME = "adapter.zip"
MEDIA_TYPE = "application/zip"
# From the node's folder to the file.
_PARTS = 5
# File systems take 255 bytes; a longer name ends in its hash.
_MAX_PART = 120
_LONG = "~"  # in no other name


@dataclass(frozen=True, slots=True)
class Artifact:
    """A zip on this machine that is to lie in a store, and what the store is told of it."""

    path: Path
    size_bytes: int
    sha256: str
    metadata: Mapping[str, str]


class ArtifactStore(Protocol):
    """Objects that are there whole or not at all, and never change.

    Every method may raise StoreUnreachableError (try later) or StoreError (it would not help).
    """

    shown: str
    """The store's address for people: without secrets."""
    prefix: str
    """What every key begins with."""

    def put(self, key: str, artifact: Artifact) -> bool:
        """Put it there; one that is there already, byte for byte, counts. False: another lies there, and stays."""

    def delete(self, key: str) -> None:
        """Take it away; gone already is as good."""

    def url(self, key: str, *, node_id: str, expires_at: datetime) -> str:
        """An address with which that node gets this one object, until then; never to be logged.

        Raises:
            UnknownArtifactError: that time is over.
            StoreError: the object is another node's.
        """


def object_keys(prefix: str, delivery: Delivery, at: datetime) -> Iterator[str]:
    """What its object may be called, best first: by the second, and there is always a next one."""
    parts = [_part(delivery.node_id), _part(delivery.base_model_id), _part(delivery.dataset_hash)]
    folder = "/".join([*filter(None, prefix.split("/")), *parts])
    while True:
        yield f"{folder}/{at.astimezone(UTC):%Y%m%dT%H%M%SZ}/{FILENAME}"
        at += timedelta(seconds=1)


def check_scope(key: str, node_id: str) -> None:
    """Raise StoreError for an object in another node's folder."""
    parts = key.split("/")
    if len(parts) < _PARTS or parts[-_PARTS] != _part(node_id):
        raise StoreError(f"{key!r} is no object of node {node_id!r}; ask for one of its own")


def metadata_of(delivery: Delivery) -> dict[str, str]:
    """What an object says of itself."""
    return {
        "node-id": delivery.node_id,
        "base-model-id": delivery.base_model_id,
        "dataset-hash": delivery.dataset_hash,
        "job-id": delivery.job_id,
    }


def _part(name: str) -> str:
    """`name` as one part of a key: different names, different parts."""
    quoted = quote(name, safe="").replace(_LONG, "%7E")
    if not quoted.strip("."):
        quoted = quoted.replace(".", "%2E") or "%"
    if len(quoted) <= _MAX_PART:
        return quoted
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{quoted[: _MAX_PART - len(digest) - 1]}{_LONG}{digest}"
