"""Records of an Arrow stream, as `Dataset.save_to_disk` writes them: batch after batch, from the start.

Batches before the place of a cursor are read and passed over. The other form of Arrow files, which
is read from its end, is not covered.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa

from adapter_service.connectors.files.batches import rows_of, wanted_columns
from adapter_service.connectors.files.byte_file import ByteFile
from adapter_service.connectors.files.places import Found, Place
from adapter_service.connectors.files.spec import FileSpec
from adapter_service.errors import SourceFormatError

# A batch is held whole.
MAX_BATCH_BYTES = 128 * 1024 * 1024
_CONTINUATION = b"\xff\xff\xff\xff"
_END = _CONTINUATION + bytes(4)


def read_arrow(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    """Every row after `start.line` rows.

    Raises:
        SourceFormatError: no Arrow stream, damaged or cut short.
    """
    row = 0
    try:
        stream = _Stream(file.blocks(0))
        stream.refuse_others()
        with pa.ipc.open_stream(stream) as batches:
            columns = _columns(batches.schema, spec)
            for batch in batches:
                fresh = batch.select(columns).slice(max(0, start.line - row))
                row += batch.num_rows
                yield from rows_of(fresh, row - fresh.num_rows, spec.max_line_bytes)
        # pyarrow takes the end of the file for the end of the stream.
        if not stream.tail.endswith(_END):
            raise SourceFormatError(f"the Arrow stream has no end after {row} rows; it was cut short: write it again")
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceFormatError(f"not readable as an Arrow stream ({reason}); it is damaged: write it again") from error


def _columns(schema: pa.Schema, spec: FileSpec) -> list[str]:
    """The columns that the mapping wants, whole where it wants a part of one."""
    wanted = wanted_columns(schema, spec) or schema.names
    return list(dict.fromkeys(path if path in schema.names else path.partition(".")[0] for path in wanted))


class _Stream(io.RawIOBase):
    """Blocks as pyarrow reads them: so many bytes at a time."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = bytearray()
        self.tail = b""

    def refuse_others(self) -> None:
        start = self.read(len(_CONTINUATION))
        self._rest[:0] = start
        if start != _CONTINUATION:
            raise SourceFormatError(
                f"not an Arrow stream: it begins with {start!r}; write it as one (Dataset.save_to_disk), or as Parquet"
            )

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > MAX_BATCH_BYTES:
            raise SourceFormatError(
                f"a batch of {size} bytes, more than the {MAX_BATCH_BYTES} that are held at once; write it in "
                "smaller ones (writer_batch_size), or as Parquet"
            )
        while size < 0 or len(self._rest) < size:
            block = next(self._blocks, None)
            if block is None:
                break
            self._rest += block
        taken = bytes(self._rest if size < 0 else self._rest[:size])
        del self._rest[: len(taken)]
        self.tail = (self.tail + taken[-len(_END) :])[-len(_END) :]
        return taken
