"""The kind `hf`: a dataset on the Hugging Face Hub, or a folder that is built like one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_service.connectors.base import Cursor, Record
from adapter_service.connectors.dataset_spec import HfSpec
from adapter_service.connectors.files import ByteFile, FileFormat, FileSpec, read_file
from adapter_service.connectors.files.compression import DecompressedFile
from adapter_service.connectors.http_file import HttpFile, HttpOptions
from adapter_service.connectors.local import LocalFile
from adapter_service.connectors.outbound import Outbound, refuse_private
from adapter_service.connectors.registry import register
from adapter_service.errors import SourceUnreachableError

if TYPE_CHECKING:
    from adapter_service.connectors.dataset_files import DataFile, DatasetFiles

# The Hub redirects each request to its storage, and counts them.
_LEAST_RANGE_BYTES = 524_288


@register("hf", spec=HfSpec)
class HfReader:
    """Reads the data files of one split, one after the other; `datasets` says which they are.

    The files are read by the formats of this package, not by `datasets`: it goes on after a break by reading
    a file from its start, holds a row group whole, and gives up at the first line that is no JSON.
    """

    def __init__(self, spec: HfSpec, name: str) -> None:
        self._spec = spec
        self._name = name

    def check(self) -> str:
        found = self._found(self._spec.revision)
        where = f"{self._spec.shown} at {found.revision[:12]}" if found.revision else f"folder {self._spec.shown}"
        return f"{where}, split {self._spec.split}: {len(found.files)} file(s), first {found.files[0].label}"

    def records(self, after: Cursor | None) -> Iterator[Record]:
        found = self._found(after["revision"] if after else self._spec.revision)
        files = list(found.files)
        if after:
            files = self._from(files, after["file"])
        for i, file in enumerate(files):
            yield from self._records_of(file, found, after if i == 0 else None)

    def _found(self, revision: str) -> DatasetFiles:
        # datasets takes 2 s to import.
        from adapter_service.connectors.dataset_files import find_folder_files, find_hub_files
        from adapter_service.connectors.hub import hub_endpoint

        if not self._spec.dataset:
            return find_folder_files(self._spec)
        if not self._spec.allow_private:
            refuse_private(hub_endpoint())
        return find_hub_files(self._spec, revision)

    def _from(self, files: list[DataFile], label: str) -> list[DataFile]:
        for i, file in enumerate(files):
            if file.label == label:
                return files[i:]
        raise SourceUnreachableError(
            f"source '{self._name}': the file {label!r} that was being read is gone from the dataset; "
            "put it back, or start again from the beginning"
        )

    def _records_of(self, file: DataFile, found: DatasetFiles, after: Cursor | None) -> Iterator[Record]:
        extra = {"revision": found.revision, "file": file.label}
        known = after["stamp"] if after else None
        read = partial(read_file, source=self._name, after=after, extra=extra)
        if not found.revision:
            local = LocalFile(Path(file.place), file.label, known)
            yield from read(local, _format_of(local, found), found.reading)
            return
        with HttpFile(file.place, self._connect(found), self._options(file, found.reading), known) as remote:
            # The label of a file is its path in the dataset, whatever its address.
            remote.label = f"{self._spec.dataset}/{file.label}"
            yield from read(remote, _format_of(remote, found), found.reading)

    def _connect(self, found: DatasetFiles) -> partial[Outbound]:
        headers = {"Authorization": f"Bearer {self._spec.token}"} if self._spec.token else {}
        return partial(
            Outbound,
            headers=headers,
            timeout_seconds=self._spec.timeout_seconds,
            # Another Hub than the public one is named by whoever runs this process (HF_ENDPOINT).
            allow_private=not found.is_public_hub,
        )

    def _options(self, file: DataFile, reading: FileSpec) -> HttpOptions:
        return HttpOptions(
            attempts=self._spec.retry_attempts + 1,
            backoff_seconds=self._spec.backoff_seconds,
            timeout_seconds=self._spec.timeout_seconds,
            compression=reading.compression_of(file.label),
            least_range_bytes=_LEAST_RANGE_BYTES,
            is_immutable=True,
            authorized_by="`token` (${HF_TOKEN})",
        )


def _format_of(file: ByteFile, found: DatasetFiles) -> FileFormat:
    """The format that the name shows, or `datasets` found; JSON shows by its first sign whether it is an array."""
    kind = found.reading.format_of(file.label) or found.kind
    if kind not in {"json", "jsonl"} or found.reading.records:
        return kind
    compression = found.reading.compression_of(file.label)
    opened: ByteFile = DecompressedFile(file, compression) if compression else file
    start = b"".join(opened.blocks(0, 64)).removeprefix(b"\xef\xbb\xbf").lstrip()
    return "json" if start.startswith(b"[") else "jsonl"
