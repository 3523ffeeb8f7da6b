"""Rows of a batch of columns as records: what Parquet and Arrow share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from adapter_service.connectors.files.lines import NOT_UTF8
from adapter_service.connectors.files.places import Found, Place
from adapter_service.connectors.files.spec import FileSpec
from adapter_service.connectors.spec import FIELDS, names_of

# What Arrow can hold and Python cannot: a date beyond the year 9999, for one.
UNREADABLE = "a value that cannot be read"


def rows_of(batch: pa.RecordBatch, row: int, max_bytes: int) -> Iterator[Found]:
    """Each row as a record, or its fault; `row` is how many of the file lie before the batch."""
    for i, fields in enumerate(_values(batch, max_bytes)):
        end = Place(line=row + i + 1)
        yield Found(end, None, fields) if isinstance(fields, str) else Found(end, fields)


def wanted_columns(schema: pa.Schema, spec: FileSpec) -> list[str] | None:
    """The columns that the mapping wants; None is all, where it lacks one, so that its fault can name what there is."""
    paths = {field: _path(schema, name) for field, name in names_of(spec).items()}
    needed = (field for field, is_needed in FIELDS[spec.format].items() if is_needed and field not in spec.defaults)
    if any(paths[field] is None for field in needed):
        return None
    return [path for path in paths.values() if path is not None] or None


def _path(schema: pa.Schema, name: str) -> str | None:
    """`name` where it is a column or lies within one (`translation.hi`), as the reader selects it."""
    if name in schema.names:
        return name
    column, _, rest = name.partition(".")
    if not rest or column not in schema.names:
        return None
    kind = schema.field(column).type
    while rest:
        if not pa.types.is_struct(kind):
            return None
        key, _, rest = rest.partition(".")
        if kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return name


def _values(batch: pa.RecordBatch, max_bytes: int) -> Iterator[Mapping[str, Any] | str]:
    """Each row as an object, or its fault."""
    if batch.nbytes <= max_bytes:
        try:
            yield from batch.to_pylist()
        except (ValueError, OverflowError):
            # One by one, to find which it is.
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
        except (ValueError, OverflowError):
            yield UNREADABLE
