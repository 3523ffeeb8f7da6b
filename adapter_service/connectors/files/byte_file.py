"""Bytes of one file from any offset: what formats read from, wherever the file lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

BLOCK_BYTES = 262_144


class ByteFile(Protocol):
    """One file that can be read again from any offset.

    `stamp` tells this state of the file from a later one (size, ETag …); it is filled in by the
    first block at the latest, and goes into cursors. A file that was opened with the stamp of a
    cursor raises `SourceFormatError` when it has changed since. Its `size`, where the source knows
    it, is what lets a format be read from its end.
    """

    label: str

    @property
    def stamp(self) -> Mapping[str, Any]: ...

    def blocks(self, offset: int, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `offset` to the end, or up to `stop`, in blocks of bounded size.

        With a `stop` no more than those bytes are fetched: this is how a part of a file is read.
        """
        ...
