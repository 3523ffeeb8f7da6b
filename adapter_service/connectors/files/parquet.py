"""Records of Parquet: the rows of one row group after the other, by the columns that the mapping wants.

The footer is read first, then pages as they are needed: neither a row group nor a column is ever
held whole. A row group in which a stream is resumed is decoded from its start.

Not covered: a single page is decompressed at once, and may be as large as its header says.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from adapter_service.connectors.files.batches import rows_of, wanted_columns
from adapter_service.connectors.files.byte_file import ByteFile
from adapter_service.connectors.files.compression import MAX_RATIO, RATIO_SLACK_BYTES
from adapter_service.connectors.files.places import Found, Place
from adapter_service.connectors.files.spec import FileSpec
from adapter_service.errors import SourceFormatError

_MAGIC = b"PAR1"
# Footers grow with row groups and columns: 2 MB for 1,000 groups of 20 columns.
MAX_FOOTER_BYTES = 64 * 1024 * 1024
# Of one column at a time; a request over HTTP or to S3 each.
_BUFFER_BYTES = 524_288
# Few rows at a time: repeated values are short in the file and come out in full.
_BATCH_ROWS = 64
_BATCH_BYTES = 4 * 1024 * 1024


def read_parquet(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    """Every row after `start.line` rows.

    Raises:
        SourceFormatError: not Parquet, damaged, expanding beyond any real text, or another file than at the cursor.
    """
    known = file.stamp.get("size")
    parts = _Parts(file)
    if start.line and known != parts.size:
        raise SourceFormatError(f"had {known} bytes and has {parts.size} now; start again from the beginning")
    try:
        with pq.ParquetFile(parts, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
            yield from _rows(parquet, start.line, spec)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceFormatError(f"not readable as Parquet ({reason}); it is damaged: write it again") from error


def _rows(parquet: pq.ParquetFile, done: int, spec: FileSpec) -> Iterator[Found]:
    columns = wanted_columns(parquet.schema_arrow, spec)
    first = 0  # row of the file that is the first of its group
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        if done < first + group.num_rows:
            _check_ratio(group, number)
            batches = parquet.iter_batches(_batch_rows(group), [number], columns, use_threads=False)
            row = first
            for batch in batches:
                fresh = batch.slice(max(0, done - row))
                row += batch.num_rows
                yield from rows_of(fresh, row - fresh.num_rows, spec.max_line_bytes)
        first += group.num_rows


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    bytes_per_row: int = group.total_byte_size // max(1, group.num_rows)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, bytes_per_row)))


def _check_ratio(group: pq.RowGroupMetaData, number: int) -> None:
    columns = [group.column(i) for i in range(group.num_columns)]
    read = sum(column.total_compressed_size for column in columns)
    written = sum(column.total_uncompressed_size for column in columns)
    if written > RATIO_SLACK_BYTES + read * MAX_RATIO:
        raise SourceFormatError(
            f"row group {number}: {read} bytes hold {written}, more than {MAX_RATIO} times as many; "
            "no text does that, so it is not read: check where the file comes from"
        )


class _Parts(io.RawIOBase):
    """A file as pyarrow reads it: from anywhere, the parts that it asks for and no more."""

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self._at = 0
        start = b"".join(file.blocks(0, len(_MAGIC)))
        size = file.stamp.get("size")
        if start != _MAGIC:
            raise SourceFormatError(f"not a Parquet file: it begins with {start!r}; check `file_format`")
        if size is None:
            raise SourceFormatError("Parquet is read from its end, and the source does not tell the file's size")
        self.size = int(size)
        self._check_footer()

    def _check_footer(self) -> None:
        """A length that was made up would be read into memory whole."""
        tail = self._part(max(0, self.size - 8), self.size)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC:
            raise SourceFormatError("the Parquet file has no end; it was cut short: fetch or write it again")
        if length > min(MAX_FOOTER_BYTES, self.size - 12):
            raise SourceFormatError(f"its footer of {length} bytes is none; the file is damaged: write it again")

    def _part(self, offset: int, stop: int) -> bytes:
        part = b"".join(self._file.blocks(offset, stop))
        if len(part) != stop - offset:
            raise SourceFormatError(f"gave {len(part)} of the {stop - offset} bytes from {offset} on; read it again")
        return part

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else min(self._at + size, self.size)
        part = self._part(self._at, stop) if stop > self._at else b""
        self._at += len(part)
        return part
