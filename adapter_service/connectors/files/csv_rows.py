"""Records of CSV: rows with the names of the first line, each of which may span lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from adapter_service.connectors.files.byte_file import ByteFile
from adapter_service.connectors.files.lines import Line, split_lines
from adapter_service.connectors.files.places import Found, Place
from adapter_service.connectors.files.spec import FileSpec
from adapter_service.errors import SourceFormatError

# Of one cell, for the whole process, and 131,072 by itself; `max_line_bytes` bounds a row, and is at most this.
csv.field_size_limit(16_000_000)


def read_csv(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    """Rows as objects by the names in the first line, which is read again when a stream is resumed."""
    rows = _rows(file, Place(), spec)
    header = next(rows, None)
    if header is None:
        return
    names = _header(header)
    if start.byte > header.end.byte:
        rows = _rows(file, start, spec)
    for row in rows:
        yield _row(row, names)


def _header(row: _Row) -> list[str]:
    names = [name.strip() for name in row.cells or ()]
    if row.cells is None or len(set(names)) != len(names):
        raise SourceFormatError(
            f"the first line has to name the columns, each once; it is {row.fault or row.cells}: add such a line"
        )
    return names


@dataclass(frozen=True, slots=True)
class _Row:
    end: Place
    cells: list[str] | None
    fault: str = ""


def _row(row: _Row, names: list[str]) -> Found:
    if row.cells is None:
        return Found(row.end, None, row.fault)
    if len(row.cells) != len(names):
        return Found(row.end, None, f"{len(row.cells)} columns where the first line names {len(names)}")
    return Found(row.end, dict(zip(names, row.cells, strict=True)))


class _RowLines:
    """Feeds `csv.reader` line by line, so that it is known where a row of several lines ends."""

    def __init__(self, lines: Iterator[Line], max_bytes: int) -> None:
        self.end = Place()
        self._lines = lines
        self._max_bytes = max_bytes
        self._size = 0

    def begin_row(self) -> None:
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.end = line.end
        if line.text is None:
            raise csv.Error(line.fault)
        self._size += len(line.text) + 1
        if self._size > self._max_bytes:
            raise csv.Error("a quote is not closed within max_line_bytes")
        return line.text + "\n"


def _rows(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[_Row]:
    lines = _RowLines(split_lines(file.blocks(start.byte), start, spec.max_line_bytes), spec.max_line_bytes)
    rows = csv.reader(lines, delimiter=spec.delimiter_of(file.label), strict=True)
    while True:
        lines.begin_row()
        try:
            cells = next(rows, None)
        except csv.Error as error:
            # csv.reader forgets the bad row by itself and begins anew on the next line.
            yield _Row(lines.end, None, f"not valid CSV: {error}")
            continue
        if cells is None:
            return
        if cells:
            yield _Row(lines.end, cells)
