"""Reads the elements of one JSON array from blocks of bytes, holding no more than one element.

Elements are told apart by brackets and quotes alone, so one that is not valid JSON or not UTF-8
costs only itself. The array is the whole file, or lies under keys of an object (`data.items`).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence

from adapter_service.connectors.files.lines import refuse_utf16
from adapter_service.connectors.files.places import Place
from adapter_service.errors import SourceFormatError

# A bracket, a comma, or a whole string; group 1 is the closing quote, empty when the bytes in hand
# end within the string. Possessive, so that a long string is never matched twice over.
_TOKEN = re.compile(rb'[{}\[\],]|"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
_KEY = re.compile(rb'[\s,]*("(?:[^"\\]++|\\.)*+")\s*:\s*', re.DOTALL)
_SPACE = re.compile(rb"\s*")


class _Window:
    """The bytes in hand; `offset` is where the first of them lies in the file."""

    def __init__(self, blocks: Iterator[bytes], offset: int, limit: int) -> None:
        self.data = bytearray()
        self.offset = offset
        self._blocks = blocks
        self._limit = limit

    def grow(self) -> bool:
        """Take the next block; False at the end of the file."""
        if len(self.data) > self._limit:
            raise SourceFormatError(
                f"at byte {self.offset} more than {self._limit} bytes without a whole element of the array; "
                "raise `max_line_bytes`, or write the file as JSONL (one object per line)"
            )
        block = next(self._blocks, None)
        self.data += block or b""
        return block is not None

    def take(self, count: int) -> bytes:
        taken = bytes(self.data[:count])
        del self.data[:count]
        self.offset += count
        return taken


def read_elements(
    blocks: Iterator[bytes], start: Place, path: Sequence[str], max_bytes: int
) -> Iterator[tuple[Place, bytes]]:
    """Each element as bytes, with the place where the next begins.

    Raises:
        SourceFormatError: no array there, it is not closed, or an element is longer than `max_bytes`.
    """
    window = _Window(blocks, start.byte, max_bytes)
    number = start.line
    if start.byte == 0 and not _enter_array(window, path):
        return
    while (element := _next_element(window)) is not None:
        if element.strip():
            number += 1
            yield Place(window.offset, number), element.strip()
    if not path and window.data.strip():
        raise SourceFormatError(
            f"the array ends at byte {window.offset}, but more follows: {_shown(window.data)}; "
            "mend the file, or say `file_format: jsonl` if it has one array or object per line"
        )


def _enter_array(window: _Window, path: Sequence[str]) -> bool:
    """Move the window past the opening bracket; False for an empty file."""
    while (found := _array_start(bytes(window.data), path)) is None:
        if not window.grow():
            if not window.data.strip():
                return False
            raise SourceFormatError(
                f"no array under '{'.'.join(path)}'; {_keys_found(bytes(window.data))}: check `records`"
                if path
                else "the JSON ends before its array begins; an array of objects is read"
            )
    window.take(found)
    return True


def _array_start(data: bytes, path: Sequence[str]) -> int | None:
    """Index after the array's opening bracket, or None if it is not among these bytes yet."""
    refuse_utf16(data)
    at: int | None = _skip_space(data, len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0)
    for key in path:
        if at is None or at >= len(data):
            return None
        if data[at : at + 1] != b"{":
            raise SourceFormatError(f"'{key}' is looked for in something that is no object; check `records`")
        at = _value_of(data, at + 1, key)
    if at is None or at >= len(data):
        return None
    if data[at : at + 1] != b"[":
        raise SourceFormatError(_not_an_array(data, at, path))
    return at + 1


def _not_an_array(data: bytes, at: int, path: Sequence[str]) -> str:
    if data[at : at + 1] == b"{" and not path:
        return (
            f"the file is one object, not an array; {_keys_found(data[at:])}: "
            "say which key holds the records (`records: data`), "
            "or `file_format: jsonl` for one object per line"
        )
    where = f"under '{'.'.join(path)}'" if path else "in the file"
    return f"{where} is {_shown(data[at:])}; an array of objects is read"


def _shown(data: bytes | bytearray) -> str:
    return repr(data[:20].decode(errors="replace")) + "…"


def _keys_found(data: bytes) -> str:
    keys = re.findall(rb'"([^"\\]{1,40})"\s*:', data[:4000])
    names = list(dict.fromkeys(key.decode(errors="replace") for key in keys))[:10]
    return f"keys found: {', '.join(names) or 'none'}"


def _value_of(data: bytes, at: int, wanted: str) -> int | None:
    """Index of the value under `wanted` in the object whose inside begins at `at`."""
    while match := _KEY.match(data, at):
        if json.loads(match[1].decode(errors="replace"), strict=False) == wanted:
            return match.end()
        end = _end_of_value(data, match.end())
        if end is None:
            return None
        at = end
    return None


def _end_of_value(data: bytes, at: int) -> int | None:
    """Index of the comma or closing bracket after the value that begins at `at` in an object."""
    end, _ = _scan(data, at, 0, ends=b",}")
    return end


def _scan(data: bytes | bytearray, at: int, depth: int, *, ends: bytes) -> tuple[int | None, tuple[int, int]]:
    """Look from `at` on, `depth` brackets deep, for the first of `ends` that is in no bracket or string.

    Returns:
        Its index, or None and where and how deep to go on from when more bytes are in hand.
    """
    while match := _TOKEN.search(data, at):
        token = data[match.start()]
        if token == ord('"') and not match[1]:
            return None, (match.start(), depth)
        if depth == 0 and token in ends:
            return match.start(), (0, 0)
        depth = max(0, depth + (token in b"[{") - (token in b"]}"))
        at = match.end()
    return None, (len(data), depth)


def _next_element(window: _Window) -> bytes | None:
    """The bytes up to the next comma of the array; None after its end."""
    at, depth = 0, 0
    while True:
        end, (at, depth) = _scan(window.data, at, depth, ends=b",]")
        if end is not None:
            return _take_element(window, end)
        if not window.grow():
            raise SourceFormatError(
                f"the array is not closed: the file ends at byte {window.offset + len(window.data)}, "
                f"within or after the element {_shown(window.data)}; it was cut short: write it again"
            )


def _take_element(window: _Window, end: int) -> bytes | None:
    """The element before `end`, and what ends it unless that is the array's bracket after an element."""
    is_comma = window.data[end : end + 1] == b","
    element = window.take(end)
    if not is_comma and element.strip():
        return element
    window.take(1)
    return element if is_comma else None


def _skip_space(data: bytes, at: int) -> int:
    match = _SPACE.match(data, at)
    return match.end() if match else at
