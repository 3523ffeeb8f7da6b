"""Records of one file with cursors and origins: what `local` and `http` share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapter_service.connectors.base import Cursor, Record
from adapter_service.connectors.files import ByteFile, GunzippedFile
from adapter_service.connectors.formats import FileFormat, FileOptions, read_found
from adapter_service.connectors.lines import Place


def read_file(
    file: ByteFile,
    kind: FileFormat,
    options: FileOptions,
    *,
    source: str,
    after: Cursor | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """Every record after the cursor; `extra` goes into each cursor (which file of several it is)."""
    start = Place(after["byte"], after["line"]) if after else Place()
    opened: ByteFile = GunzippedFile(file) if options.is_gzip(file.label) else file
    for found in read_found(opened, kind, start, options):
        cursor = {**(extra or {}), "byte": found.end.byte, "line": found.end.line, "stamp": dict(file.stamp)}
        yield Record(cursor, f"{source}:{file.label}:{found.end.line}", found.fields, found.fault)
