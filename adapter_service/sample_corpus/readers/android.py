"""Reads Android's compiled resource table (`resources.arsc`): the texts of a phone, in 80 languages.

Layout: AOSP `libs/androidfw/include/androidfw/ResourceTypes.h`. Only plain strings are read;
plurals, arrays and variants for one mobile network are left out.
"""

from __future__ import annotations

import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pairs, join

_STRING_POOL, _PACKAGE, _TYPE = 0x0001, 0x0200, 0x0201
_UTF8, _SPARSE, _COMPLEX, _STRING_VALUE, _NO_ENTRY = 0x100, 0x01, 0x0001, 0x03, 0xFFFFFFFF


def read(folder: Path, origin: str) -> Pairs:
    with zipfile.ZipFile(next(folder.rglob("framework-res.apk"))) as apk:
        texts = _texts_by_language(apk.read("resources.arsc"))
    for language in CORPUS_LANGUAGES:
        yield from join(texts[""], texts[language], language, origin)


def _texts_by_language(table: bytes) -> dict[str, dict[str, str]]:
    """Identifier -> text for each language without a region; English is the language ""."""
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    strings: list[str] = []
    for kind, start, end in _chunks(table, 12, len(table)):
        if kind == _STRING_POOL:
            strings = _string_pool(table, start)
        elif kind == _PACKAGE:
            for language, identifier, index in _package_entries(table, start, end):
                texts[language].setdefault(identifier, strings[index])
    return texts


def _chunks(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    while start < end:
        kind, _, size = struct.unpack_from("<HHI", data, start)
        yield kind, start, start + size
        start += size


def _string_pool(data: bytes, start: int) -> list[str]:
    count, _, flags, strings_start = struct.unpack_from("<IIII", data, start + 8)
    offsets = struct.unpack_from(f"<{count}I", data, start + 28)
    read_one = _utf8_string if flags & _UTF8 else _utf16_string
    return [read_one(data, start + strings_start + offset) for offset in offsets]


def _utf8_string(data: bytes, at: int) -> str:
    at += 2 if data[at] & 0x80 else 1  # the length in UTF-16 units, not needed
    length = data[at]
    at += 1
    if length & 0x80:
        length = (length & 0x7F) << 8 | data[at]
        at += 1
    return data[at : at + length].decode("utf-8", errors="replace")


def _utf16_string(data: bytes, at: int) -> str:
    (length,) = struct.unpack_from("<H", data, at)
    at += 2
    if length & 0x8000:
        length = (length & 0x7FFF) << 16 | struct.unpack_from("<H", data, at)[0]
        at += 2
    return data[at : at + 2 * length].decode("utf-16-le", errors="replace")


def _package_entries(data: bytes, start: int, end: int) -> Iterator[tuple[str, str, int]]:
    """(language, identifier, index into the strings) of each plain text in a package."""
    (header_size,) = struct.unpack_from("<H", data, start + 2)
    for kind, chunk, _ in _chunks(data, start + header_size, end):
        if kind != _TYPE:
            continue
        network, language, region = struct.unpack_from("<I2s2s", data, chunk + 24)
        if network or region != b"\0\0":
            continue
        for entry, index in _string_values(data, chunk):
            yield language.strip(b"\0").decode("latin-1"), f"{data[chunk + 8]}.{entry}", index


def _string_values(data: bytes, chunk: int) -> Iterator[tuple[int, int]]:
    header_size, flags = struct.unpack_from("<H", data, chunk + 2)[0], data[chunk + 9]
    count, entries_start = struct.unpack_from("<II", data, chunk + 12)
    offsets = struct.unpack_from(f"<{count}I", data, chunk + header_size)
    for entry, offset in enumerate(offsets):
        if flags & _SPARSE or offset == _NO_ENTRY:
            continue
        at = chunk + entries_start + offset
        _, entry_flags, _ = struct.unpack_from("<HHI", data, at)
        _, _, kind, index = struct.unpack_from("<HBBI", data, at + 8)
        if not entry_flags & _COMPLEX and kind == _STRING_VALUE:
            yield entry, index
