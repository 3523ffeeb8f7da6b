"""Turns the bytes of a file into records with their places: JSONL, JSON array, CSV and text."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapter_service.connectors.files import ByteFile
from adapter_service.connectors.json_array import read_elements
from adapter_service.connectors.lines import NOT_UTF8, Line, Place, split_lines
from adapter_service.errors import SourceFormatError

NOT_JSON = "not valid JSON"

FileFormat = Literal["jsonl", "json", "csv", "text"]
_SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}
CONTENT_TYPES: dict[str, FileFormat] = {
    "application/json": "json",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
    "text/csv": "csv",
    "text/plain": "text",
}


class FileOptions(BaseModel):
    """How the files of a source are read; the same words for every kind that reads files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_format: Literal["auto", "jsonl", "json", "csv", "text"] = "auto"
    compression: Literal["auto", "none", "gz"] = "auto"
    records: str = Field(default="", description="keys down to the array in a JSON object: `data.items`")
    split: Literal["line", "paragraph"] = "line"
    delimiter: str = Field(default="", max_length=1, description="of CSV; else a comma, or a tab for .tsv")
    max_line_bytes: int = Field(default=1_000_000, ge=100, le=16_000_000)

    def is_gzip(self, name: str) -> bool:
        return self.compression == "gz" or (self.compression == "auto" and name.lower().endswith(".gz"))

    def format_of(self, name: str) -> FileFormat | None:
        """The given format, or the one that the file's name shows."""
        return _SUFFIXES.get(_suffix(name)) if self.file_format == "auto" else self.file_format

    def delimiter_of(self, name: str) -> str:
        return self.delimiter or ("\t" if _suffix(name) == ".tsv" else ",")


def _suffix(name: str) -> str:
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


@dataclass(frozen=True, slots=True)
class Found:
    """One record (`fields`) or the fault in its place, and the place after it."""

    end: Place
    fields: Mapping[str, Any] | None
    fault: str = ""


def require_format(options: FileOptions, name: str) -> FileFormat:
    found = options.format_of(name)
    if found is None:
        raise SourceFormatError(
            f"cannot tell the format of {name!r} from its name "
            f"(known: {', '.join(_SUFFIXES)}, each also .gz); say `file_format: jsonl` (or json, csv, text)"
        )
    return found


def read_found(file: ByteFile, kind: FileFormat, start: Place, options: FileOptions) -> Iterator[Found]:
    """Every record after `start`; the file's name stands in front of what is wrong with it."""
    try:
        yield from _READERS[kind](file, start, options)
    except SourceFormatError as error:
        if str(error).startswith(file.label):
            raise
        raise SourceFormatError(f"{file.label}: {error}") from error


def _lines(file: ByteFile, start: Place, options: FileOptions) -> Iterator[Line]:
    return split_lines(file.blocks(start.byte), start, options.max_line_bytes)


def _read_jsonl(file: ByteFile, start: Place, options: FileOptions) -> Iterator[Found]:
    for line in _lines(file, start, options):
        if line.text is None:
            yield Found(line.end, None, line.fault)
        elif line.text.strip():
            yield _object(line.text, line.end)


def _read_json(file: ByteFile, start: Place, options: FileOptions) -> Iterator[Found]:
    path = options.records.split(".") if options.records else []
    for end, raw in read_elements(file.blocks(start.byte), start, path, options.max_line_bytes):
        try:
            yield _object(raw.decode(), end)
        except UnicodeDecodeError:
            yield Found(end, None, NOT_UTF8)


def _object(text: str, end: Place) -> Found:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Found(end, None, NOT_JSON)
    if not isinstance(value, dict):
        return Found(end, None, f"a {type(value).__name__} where an object is wanted")
    return Found(end, value)


def _read_text(file: ByteFile, start: Place, options: FileOptions) -> Iterator[Found]:
    lines = _lines(file, start, options)
    yield from _paragraphs(lines, options.max_line_bytes) if options.split == "paragraph" else _each(lines)


def _each(lines: Iterator[Line]) -> Iterator[Found]:
    for line in lines:
        if line.text is None:
            yield Found(line.end, None, line.fault)
        elif line.text.strip():
            yield Found(line.end, {"text": line.text.strip()})


def _paragraphs(lines: Iterator[Line], max_bytes: int) -> Iterator[Found]:
    """Lines up to the next blank one; a faulty line spoils its paragraph."""
    paragraph = _Paragraph(max_bytes)
    for line in lines:
        if line.text is not None and not line.text.strip():
            yield from paragraph.take(line.end)
        else:
            paragraph.add(line)
    yield from paragraph.take(paragraph.end)


class _Paragraph:
    def __init__(self, max_bytes: int) -> None:
        self.end = Place()
        self._max_bytes = max_bytes
        self._lines: list[str] = []
        self._size = 0
        self._fault = ""

    def add(self, line: Line) -> None:
        self.end = line.end
        self._size += len(line.text or "")
        self._fault = self._fault or line.fault
        if self._size > self._max_bytes and not self._fault:
            self._fault = f"paragraph longer than {self._max_bytes} bytes (max_line_bytes)"
        if self._fault:
            self._lines.clear()
        else:
            self._lines.append((line.text or "").strip())

    def take(self, end: Place) -> Iterator[Found]:
        """What was collected, if anything; the next paragraph begins after `end`."""
        if self._fault:
            yield Found(end, None, self._fault)
        elif self._lines:
            yield Found(end, {"text": "\n".join(self._lines)})
        self._lines, self._size, self._fault = [], 0, ""


def _read_csv(file: ByteFile, start: Place, options: FileOptions) -> Iterator[Found]:
    """Rows as objects by the names in the first line, which is read again when a stream is resumed."""
    rows = _rows(file, Place(), options)
    header = next(rows, None)
    if header is None:
        return
    names = _header(header)
    if start.byte > header.end.byte:
        rows = _rows(file, start, options)
    for row in rows:
        yield _row(row, names)


def _header(row: _Row) -> list[str]:
    if row.cells is None or len(set(row.cells)) != len(row.cells):
        raise SourceFormatError(
            f"the first line has to name the columns, each once; it is {row.fault or row.cells}: add such a line"
        )
    return [name.strip() for name in row.cells]


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


def _rows(file: ByteFile, start: Place, options: FileOptions) -> Iterator[_Row]:
    lines = _RowLines(_lines(file, start, options), options.max_line_bytes)
    rows = csv.reader(lines, delimiter=options.delimiter_of(file.label), strict=True)
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


_READERS: dict[FileFormat, Callable[[ByteFile, Place, FileOptions], Iterator[Found]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "text": _read_text,
}
