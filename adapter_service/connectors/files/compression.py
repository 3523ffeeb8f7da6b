"""Compressed files as the bytes within, never more than a bounded piece ahead: gzip and Zstandard."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import zstandard

from adapter_service.connectors.files.byte_file import BLOCK_BYTES, ByteFile
from adapter_service.errors import SourceFormatError

Compression = Literal["gz", "zst"]
# As they stand in Content-Encoding, and in messages.
NAMES: dict[Compression, str] = {"gz": "gzip", "zst": "zstd"}

# Real text shrinks by 3 to 10, repeated records by up to 100; deflate can do 1,032 and Zstandard 32,768.
MAX_RATIO = 300
RATIO_SLACK_BYTES = 16 * 1024 * 1024

# What `zstd` itself takes without being told to; the window is memory that the file asks for.
MAX_WINDOW_BYTES = 128 * 1024 * 1024
# All that a piece expands to comes at once: of 512 bytes at most 16 MiB.
_ZSTD_PIECE_BYTES = 512


class DecompressedFile:
    """A compressed file as the bytes within; an offset is reached by reading up to it again."""

    def __init__(self, inner: ByteFile, compression: Compression) -> None:
        self.label = inner.label
        self._inner = inner
        self._decompress = _DECOMPRESS[compression]

    @property
    def stamp(self) -> Mapping[str, Any]:
        return self._inner.stamp

    def blocks(self, offset: int, stop: int | None = None) -> Iterator[bytes]:
        reached = 0
        for block in self._decompress(self._inner.blocks(0), self.label):
            wanted = block[max(0, offset - reached) : None if stop is None else max(0, stop - reached)]
            reached += len(block)
            if wanted:
                yield wanted
            if stop is not None and reached >= stop:
                return


def gunzip(blocks: Iterator[bytes], label: str) -> Iterator[bytes]:
    """Decompress on the fly, every member of the file, never more than one block ahead.

    Raises:
        SourceFormatError: not gzip, cut short, or expanding beyond any real text.
    """
    decoder = zlib.decompressobj(wbits=31)
    read = written = 0
    for block in blocks:
        read += len(block)
        # Padding of zeros after a member is allowed by the format and holds nothing.
        rest = block.lstrip(b"\0") if decoder.eof else block
        while rest:
            if decoder.eof:
                decoder = zlib.decompressobj(wbits=31)
            piece = _inflate(decoder, rest, label)
            written += len(piece)
            _check_ratio(read, written, label, "gz")
            if piece:
                yield piece
            rest = decoder.unused_data.lstrip(b"\0") if decoder.eof else decoder.unconsumed_tail
    if read and not decoder.eof:
        raise _cut_short(read, label, "gz")


def unzstd(blocks: Iterator[bytes], label: str) -> Iterator[bytes]:
    """Decompress on the fly, every frame of the file, with a bounded window.

    Raises:
        SourceFormatError: not Zstandard, cut short, a window beyond 128 MiB, or expanding beyond any real text.
    """
    frames = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    decoder = frames.decompressobj()
    read = written = 0
    out = bytearray()
    for block in blocks:
        for start in range(0, len(block), _ZSTD_PIECE_BYTES):
            rest = block[start : start + _ZSTD_PIECE_BYTES]
            read += len(rest)
            while rest:
                if decoder.eof:
                    decoder = frames.decompressobj()
                out += _unpack(decoder, rest, label)
                rest = decoder.unused_data if decoder.eof else b""
            _check_ratio(read, written + len(out), label, "zst")
            while len(out) >= BLOCK_BYTES:
                written += BLOCK_BYTES
                yield bytes(out[:BLOCK_BYTES])
                del out[:BLOCK_BYTES]
        # What is there is given at the end of each block: the next may be long in coming.
        written += len(out)
        if out:
            yield bytes(out)
            out.clear()
    if read and not decoder.eof:
        raise _cut_short(read, label, "zst")


_DECOMPRESS: dict[Compression, Callable[[Iterator[bytes], str], Iterator[bytes]]] = {"gz": gunzip, "zst": unzstd}


def _inflate(decoder: zlib._Decompress, data: bytes, label: str) -> bytes:
    try:
        return decoder.decompress(data, BLOCK_BYTES)
    except zlib.error as error:
        raise _not_valid(error, label, "gz") from error


def _unpack(decoder: zstandard.ZstdDecompressionObj, data: bytes, label: str) -> bytes:
    try:
        return decoder.decompress(data)
    except zstandard.ZstdError as error:
        if "memory" in str(error):
            raise SourceFormatError(
                f"{label}: asks for a window of more than {MAX_WINDOW_BYTES} bytes of memory (zstd --long); "
                "compress it again without --long, or with --long=27 at most"
            ) from error
        raise _not_valid(error, label, "zst") from error


def _not_valid(error: Exception, label: str, compression: Compression) -> SourceFormatError:
    return SourceFormatError(
        f"{label}: not valid {NAMES[compression]} data ({error}); write the file again, or say `compression: none`"
    )


def _cut_short(read: int, label: str, compression: Compression) -> SourceFormatError:
    return SourceFormatError(
        f"{label}: the {NAMES[compression]} data ends in the middle after {read} bytes; "
        "the file was cut short: fetch or write it again"
    )


def _check_ratio(read: int, written: int, label: str, compression: Compression) -> None:
    if written > RATIO_SLACK_BYTES + read * MAX_RATIO:
        raise SourceFormatError(
            f"{label}: {read} bytes of {NAMES[compression]} gave {written} already, more than {MAX_RATIO} times as "
            "many; no text does that, so the rest is not read: check where the file comes from"
        )
