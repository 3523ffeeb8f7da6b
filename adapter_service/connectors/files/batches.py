"""Rows of a batch of columns as records: what Parquet and Arrow share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from adapter_service.connectors.files.lines import NOT_UTF8
from adapter_service.connectors.files.places import Found, Place


def rows_of(batch: pa.RecordBatch, row: int, max_bytes: int) -> Iterator[Found]:
    """Each row as a record, or its fault; `row` is how many of the file lie before the batch."""
    for i, fields in enumerate(_values(batch, max_bytes)):
        end = Place(line=row + i + 1)
        yield Found(end, None, fields) if isinstance(fields, str) else Found(end, fields)


def _values(batch: pa.RecordBatch, max_bytes: int) -> Iterator[Mapping[str, Any] | str]:
    """Each row as an object, or its fault."""
    if batch.nbytes <= max_bytes:
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            pass
        else:
            return
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        if row.nbytes > max_bytes:
            yield f"longer than {max_bytes} bytes (max_line_bytes)"
            continue
        try:
            yield row.to_pylist()[0]
        except UnicodeDecodeError:
            yield NOT_UTF8
