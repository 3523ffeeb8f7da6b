"""Splits blocks of bytes into lines of bounded length, with the offset where each ends."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from adapter_service.connectors.files.places import Place
from adapter_service.errors import SourceFormatError

NOT_UTF8 = "not UTF-8"

# How much of one endless line is passed over before the file is taken for something else.
MAX_PASSED_OVER = 64


@dataclass(frozen=True, slots=True)
class Line:
    """`text` without its line end, or None and the fault; `end` is the place after the line end."""

    end: Place
    text: str | None
    fault: str = ""


def split_lines(blocks: Iterator[bytes], start: Place, max_line_bytes: int) -> Iterator[Line]:
    """Every line from `start` on; a last one without a line end counts too.

    A line that is too long or not UTF-8 is a fault and the next one is read.

    Raises:
        SourceFormatError: UTF-16, or no line end within 64 times `max_line_bytes`.
    """
    byte, number = start.byte, start.line
    passed_over = 0
    pending = bytearray()
    for block in blocks:
        pending += block
        begin = 0
        while (end := pending.find(b"\n", begin)) >= 0:
            raw = bytes(pending[begin:end])
            byte, number, begin = byte + passed_over + len(raw) + 1, number + 1, end + 1
            yield _line(raw, Place(byte, number), max_line_bytes, passed_over)
            passed_over = 0
        del pending[:begin]
        if len(pending) > max_line_bytes:
            passed_over += len(pending)
            pending.clear()
            _refuse_endless(passed_over, number + 1, max_line_bytes)
    if pending or passed_over:
        place = Place(byte + passed_over + len(pending), number + 1)
        yield _line(bytes(pending), place, max_line_bytes, passed_over)


def _line(raw: bytes, end: Place, max_line_bytes: int, passed_over: int) -> Line:
    if passed_over or len(raw) > max_line_bytes:
        return Line(end, None, f"longer than {max_line_bytes} bytes (max_line_bytes)")
    if end.line == 1:
        refuse_utf16(raw)
        raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return Line(end, raw.removesuffix(b"\r").decode())
    except UnicodeDecodeError:
        return Line(end, None, NOT_UTF8)


def refuse_utf16(start: bytes) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SourceFormatError(
            "the file is UTF-16; UTF-8 is read: convert it (iconv -f UTF-16 -t UTF-8) and try again"
        )


def _refuse_endless(passed_over: int, line: int, max_line_bytes: int) -> None:
    if passed_over > MAX_PASSED_OVER * max_line_bytes:
        raise SourceFormatError(
            f"line {line} has no end within {passed_over} bytes; this is not a file of lines: "
            "check `file_format` (jsonl, json, csv or text) and `compression`"
        )
