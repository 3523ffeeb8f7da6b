"""Records written as JSON objects: one a line, or the elements of one array."""

from __future__ import annotations

import json
from collections.abc import Iterator

from adapter_service.connectors.files.byte_file import ByteFile
from adapter_service.connectors.files.json_array import read_elements
from adapter_service.connectors.files.lines import NOT_UTF8, split_lines
from adapter_service.connectors.files.places import Found, Place
from adapter_service.connectors.files.spec import FileSpec

NOT_JSON = "not valid JSON"


def read_jsonl(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    for line in split_lines(file.blocks(start.byte), start, spec.max_line_bytes):
        if line.text is None:
            yield Found(line.end, None, line.fault)
        elif line.text.strip():
            yield _object(line.text, line.end)


def read_json(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    path = spec.records.split(".") if spec.records else []
    for end, raw in read_elements(file.blocks(start.byte), start, path, spec.max_line_bytes):
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
