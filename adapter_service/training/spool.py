"""What a run has streamed, kept in its work folder: the samples as they came, and the place in the source after them.

    samples.bin    grows and never changes: token ids, and the text of what is held out
    place.json     how much of it counts, the cursor after that, and what was counted up to there

The place is replaced whole, about once a second, after the samples before it are on the disk. So
whenever the power goes, what counts is whole, and about a second of the stream is read again. Both
files stay on the machine that wrote them: integers are in its byte order.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adapter_service.durable import make_folder, sync, write_whole
from adapter_service.errors import TrainingError
from adapter_service.rendering import RenderedSample
from adapter_service.samples import Sample
from adapter_service.training.dataset import BYTES_PER_ID, ID_TYPE, Dataset

# What is younger is streamed again after a power cut; more often would be waiting for the disk.
KEEP_SECONDS = 1.0
_SAMPLES, _PLACE = "samples.bin", "place.json"
# Of each sample: where its completion starts, its ids, and the bytes of text that follow them (0: it is trained on).
_HEAD = struct.Struct("<III")
_BLOCK_BYTES = 1 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stream was left.

    `source` is what is read, `described` how the run's record calls it; `cursor` is None before the
    first sample; `counts` are the tally's up to the cursor. With `ended` there is nothing more to read.
    """

    source: str
    described: str
    cursor: Mapping[str, Any] | None
    counts: Mapping[str, Any]
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Extent:
    """How much of the samples' file counts, and what is known of the dataset beside them."""

    bytes: int
    crc32: int
    refused: int
    refusals: list[str]
    stopped_by: str | None


class Spool:
    """The streamed samples of the run whose stream follows from `key`, in `folder`.

    What cannot be written is told through `note` and costs no run: without it a restart streams again.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        note: Callable[[str], None] = logger.info,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._key = key
        self._note = note
        self._monotonic = monotonic
        self._written_at = float("-inf")
        self._bytes = self._crc32 = self._trained = self._held_out = 0
        self._is_broken = False

    def restore(self, *, discards_other: bool = False) -> tuple[Dataset, Place] | None:
        """What an earlier attempt left, and where; None when there is nothing, or nothing whole.

        Raises:
            TrainingError: it is of another stream, and not to be thrown away (`discards_other`).
        """
        try:
            found = json.loads((self._folder / _PLACE).read_text(encoding="utf-8"))
            is_own, extent, place = found["key"] == self._key, _Extent(**found["extent"]), Place(**found["place"])
        except FileNotFoundError:
            self.discard()
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._begin_anew(f"the place in the stream cannot be read ({type(error).__name__})")
            return None
        if not is_own:
            if not discards_other:
                raise TrainingError(
                    "what was streamed is of a run with another source, seed or base, or other limits; "
                    "take those, or start anew without resuming"
                )
            self._begin_anew("the source or the settings changed since the last attempt")
            return None
        dataset = Dataset(refused=extent.refused, refusals=extent.refusals, stopped_by=extent.stopped_by)
        try:
            self._read_into(dataset, extent)
        except (OSError, ValueError, EOFError, struct.error) as error:
            self._begin_anew(f"what was streamed is damaged ({type(error).__name__})")
            return None
        self._bytes, self._crc32 = extent.bytes, extent.crc32
        self._count(dataset)
        return dataset, place

    def is_due(self) -> bool:
        """Whether a second has passed since anything was written."""
        return self._monotonic() - self._written_at >= KEEP_SECONDS

    def keep(self, dataset: Dataset, place: Place) -> None:
        """Write what is new in `dataset`, and the place after it; when this returns the disk has both."""
        if self._is_broken:
            return
        try:
            self._append(dataset)
            extent = _Extent(self._bytes, self._crc32, dataset.refused, dataset.refusals, dataset.stopped_by)
            described = {"key": self._key, "extent": asdict(extent), "place": asdict(place)}
            write_whole(self._folder / _PLACE, json.dumps(described))
        except OSError as error:
            self._is_broken = True
            logger.warning("streamed samples cannot be kept", exc_info=True)
            self._note(f"streamed samples cannot be kept ({type(error).__name__}); a restart would stream them again")
        self._written_at = self._monotonic()

    def discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._bytes = self._crc32 = self._trained = self._held_out = 0
        self._written_at, self._is_broken = float("-inf"), False

    def _begin_anew(self, reason: str) -> None:
        self._note(f"{reason}; streaming from the beginning")
        self.discard()

    def _append(self, dataset: Dataset) -> None:
        """Write behind what counts: the rest of a write that was cut short is written over."""
        make_folder(self._folder)
        path = self._folder / _SAMPLES
        size, crc32 = self._bytes, self._crc32
        with path.open("r+b" if path.exists() else "xb") as file:
            file.seek(size)
            file.truncate()
            for record in self._new_records(dataset):
                file.write(record)
                size, crc32 = size + len(record), zlib.crc32(record, crc32)
            file.flush()
            os.fsync(file.fileno())
        if not self._bytes:
            sync(self._folder)
        self._bytes, self._crc32 = size, crc32
        self._count(dataset)

    def _new_records(self, dataset: Dataset) -> Iterator[bytes]:
        for rendered in dataset.train[self._trained :]:
            yield _record(rendered, b"")
        held_out = zip(dataset.holdout[self._held_out :], dataset.holdout_rendered[self._held_out :], strict=True)
        for sample, rendered in held_out:
            yield _record(rendered, sample.to_json().encode())

    def _count(self, dataset: Dataset) -> None:
        self._trained, self._held_out = len(dataset.train), len(dataset.holdout)

    def _read_into(self, dataset: Dataset, extent: _Extent) -> None:
        path = self._folder / _SAMPLES
        if extent.bytes == 0:
            return
        with path.open("rb") as file:
            if _crc32(file, extent.bytes) != extent.crc32:
                raise ValueError("another checksum")
            file.seek(0)
            while file.tell() < extent.bytes:
                rendered, text = _read_record(file)
                if text:
                    dataset.hold_out(Sample.from_json(text.decode()), rendered)
                else:
                    dataset.train_on(rendered)


def has_samples(folder: Path) -> bool:
    """Whether there is anything to restore; that it is whole is seen when it is restored."""
    return (folder / _PLACE).is_file()


def _record(rendered: RenderedSample, text: bytes) -> bytes:
    ids = array(ID_TYPE, rendered.ids)
    return _HEAD.pack(rendered.completion_start, len(ids), len(text)) + ids.tobytes() + text


def _read_record(file: BinaryIO) -> tuple[RenderedSample, bytes]:
    completion_start, count, text_bytes = _HEAD.unpack(file.read(_HEAD.size))
    ids = array(ID_TYPE)
    ids.frombytes(file.read(BYTES_PER_ID * count))
    return RenderedSample(ids, completion_start), file.read(text_bytes)


def _crc32(file: BinaryIO, size: int) -> int:
    """Of the first `size` bytes, or of all where there are fewer."""
    crc32 = 0
    while size and (block := file.read(min(size, _BLOCK_BYTES))):
        crc32, size = zlib.crc32(block, crc32), size - len(block)
    return crc32
