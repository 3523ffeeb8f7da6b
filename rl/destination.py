"""Where shards go: the one seam between what is sent and the kinds of storage that take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rl.shards import MANIFEST, run_id_of

Outcome = Literal["sent", "already there"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One file to send, whole and never changing; `name` is what it is called at the destination."""

    path: Path
    name: str
    bytes: int
    sha256: str
    content_type: str


class Notes(Protocol):
    """What an interrupted transfer of one piece wants to know when it goes on; kept on the disk."""

    def read(self) -> Mapping[str, str]: ...

    def write(self, **notes: str) -> None:
        """Replace the notes; on the disk when it returns."""


class Destination(Protocol):
    """A kind of storage. `label` is for people and the state file: it has no secrets in it."""

    @property
    def label(self) -> str: ...

    @property
    def place(self) -> Place: ...

    def send(self, piece: Piece, notes: Notes) -> Outcome:
        """Put `piece` there, whole or not at all for whoever reads.

        What an interrupted try has brought there already is not sent again where the storage can tell.
        A piece that is there with the same content is done; one with another content is never touched.

        Raises:
            UnreachableError: away, busy or cut off.
            DifferentError: another content has that name.
            RefusedError: not allowed, or no such place.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """What shards are called at a destination.

    A path that ends in `.jsonl` names the run's one shard (the second gets `-00001` before the ending);
    any other is a folder for shards under their own names. `{run_id}` stands for the shard's.
    """

    path: str = ""
    takes_manifest: bool = field(default=True, kw_only=True)

    def name_of(self, shard: str) -> str:
        """Of a shard, by its name on the local disk."""
        path = self.path.replace("{run_id}", run_id_of(shard))
        if not path.endswith(".jsonl"):
            return f"{path.rstrip('/')}/{shard}".lstrip("/")
        number = shard.removesuffix(".jsonl").rpartition("-")[2]
        ending = ".jsonl" if int(number) == 0 else f"-{number}.jsonl"
        return f"{path.removesuffix('.jsonl')}{ending}".lstrip("/")


def manifest_name(shard_name: str) -> str:
    """The manifest's name beside that of its shard."""
    return shard_name.removesuffix(".jsonl") + MANIFEST
