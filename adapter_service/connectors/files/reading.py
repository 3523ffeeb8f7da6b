"""Records of one file with cursors and origins: what every kind that reads files shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from adapter_service.connectors.base import Cursor, Record
from adapter_service.connectors.files.byte_file import ByteFile
from adapter_service.connectors.files.compression import DecompressedFile
from adapter_service.connectors.files.csv_rows import read_csv
from adapter_service.connectors.files.objects import read_json, read_jsonl
from adapter_service.connectors.files.places import Found, Place
from adapter_service.connectors.files.plain_text import read_text
from adapter_service.connectors.files.spec import FileFormat, FileSpec
from adapter_service.errors import SourceFormatError


def read_file(
    file: ByteFile,
    kind: FileFormat,
    spec: FileSpec,
    *,
    source: str,
    after: Cursor | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """Every record after the cursor; `extra` goes into each cursor (which file of several it is)."""
    start = Place(after["byte"], after["line"]) if after else Place()
    compression = spec.compression_of(file.label)
    opened: ByteFile = DecompressedFile(file, compression) if compression else file
    for found in _read_found(opened, kind, start, spec):
        cursor = {**(extra or {}), "byte": found.end.byte, "line": found.end.line, "stamp": dict(file.stamp)}
        yield Record(cursor, f"{source}:{file.label}:{found.end.line}", found.fields, found.fault)


def _read_found(file: ByteFile, kind: FileFormat, start: Place, spec: FileSpec) -> Iterator[Found]:
    """Every record after `start`; the file's name stands in front of what is wrong with it."""
    try:
        yield from _READERS[kind](file, start, spec)
    except SourceFormatError as error:
        if str(error).startswith(file.label):
            raise
        raise SourceFormatError(f"{file.label}: {error}") from error


def _read_parquet(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    if isinstance(file, DecompressedFile):
        raise SourceFormatError(
            "a Parquet file within a compressed one is not read, since it is read from its end; "
            "Parquet compresses its own pages: store it as .parquet"
        )
    # pyarrow takes 0.3 s to import.
    from adapter_service.connectors.files.parquet import read_parquet

    yield from read_parquet(file, start, spec)


def _read_arrow(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    from adapter_service.connectors.files.arrow import read_arrow

    yield from read_arrow(file, start, spec)


_READERS: dict[FileFormat, Callable[[ByteFile, Place, FileSpec], Iterator[Found]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "text": read_text,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
