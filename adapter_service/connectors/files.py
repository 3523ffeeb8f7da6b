"""Bytes of one file from any offset: what formats read from, wherever the file lies."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from adapter_service.errors import SourceFormatError

BLOCK_BYTES = 262_144

# Real text shrinks by 3 to 10, repeated records by up to 100; deflate can do 1,032.
MAX_RATIO = 300
RATIO_SLACK_BYTES = 16 * 1024 * 1024


class ByteFile(Protocol):
    """One file that can be read again from any offset.

    `stamp` tells this state of the file from a later one (size, ETag …); it is filled in by the
    first block at the latest, and goes into cursors. A file that was opened with the stamp of a
    cursor raises `SourceFormatError` when it has changed since.
    """

    label: str

    @property
    def stamp(self) -> Mapping[str, Any]: ...

    def blocks(self, offset: int) -> Iterator[bytes]:
        """The bytes from `offset` to the end, in blocks of bounded size."""
        ...


class GunzippedFile:
    """A gzip file as the bytes within; an offset is reached by reading up to it again."""

    def __init__(self, inner: ByteFile) -> None:
        self.label = inner.label
        self._inner = inner

    @property
    def stamp(self) -> Mapping[str, Any]:
        return self._inner.stamp

    def blocks(self, offset: int) -> Iterator[bytes]:
        for block in gunzip(self._inner.blocks(0), self.label):
            if offset < len(block):
                yield block[offset:]
            offset = max(0, offset - len(block))


def gunzip(blocks: Iterator[bytes], label: str) -> Iterator[bytes]:
    """Decompress on the fly, every member of the file, never more than one block ahead.

    Raises:
        SourceFormatError: not gzip, cut short, or expanding beyond any real text.
    """
    decoder = zlib.decompressobj(wbits=31)
    read = written = 0
    for block in blocks:
        read += len(block)
        rest = block
        while rest:
            if decoder.eof:
                decoder = zlib.decompressobj(wbits=31)
            piece = _decompress(decoder, rest, label)
            written += len(piece)
            _check_ratio(read, written, label)
            if piece:
                yield piece
            # Padding of zeros after a member is allowed by the format and holds nothing.
            rest = decoder.unused_data.lstrip(b"\0") if decoder.eof else decoder.unconsumed_tail
    if read and not decoder.eof:
        raise SourceFormatError(
            f"{label}: the gzip data ends in the middle after {read} bytes; "
            "the file was cut short: fetch or write it again"
        )


def _decompress(decoder: zlib._Decompress, data: bytes, label: str) -> bytes:
    try:
        return decoder.decompress(data, BLOCK_BYTES)
    except zlib.error as error:
        raise SourceFormatError(
            f"{label}: not valid gzip data ({error}); write the file again, or say `compression: none`"
        ) from error


def _check_ratio(read: int, written: int, label: str) -> None:
    if written > RATIO_SLACK_BYTES + read * MAX_RATIO:
        raise SourceFormatError(
            f"{label}: {read} bytes of gzip gave {written} already, more than {MAX_RATIO} times as many; "
            "no text does that, so the rest is not read: check where the file comes from"
        )
