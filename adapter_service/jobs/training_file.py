"""A file to train on that a client sent: what it is, and the source that a job reads of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from adapter_service.connectors.spec import RecordFormat
from adapter_service.errors import InvalidFileError
from adapter_service.jobs.ids import is_id, new_id
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.settings import Settings, SourceEntry

_PREFIX = "file-"


class FileStatus(StrEnum):
    """`uploaded` until every line is read; `error` is a file that no job takes."""

    UPLOADED = "uploaded"
    PROCESSED = "processed"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """`filename` is what the client called it: shown, and never opened. `path` is where its bytes lie.

    `samples` of `format` are in it, None of both before it is processed; `status_details` says what is
    wrong with it.
    """

    id: str
    filename: str
    purpose: str
    bytes: int
    status: FileStatus
    status_details: str | None
    format: RecordFormat | None
    samples: int | None
    created_at: datetime
    path: Path

    def require_usable(self) -> None:
        """Raise InvalidFileError for a file that cannot be trained on, with the reason."""
        if self.status is FileStatus.PROCESSED:
            return
        why = self.status_details or "its lines are still being read"
        todo = "send it again, mended" if self.status is FileStatus.ERROR else "try again soon"
        raise InvalidFileError(f"{self.id} ({self.filename}) cannot be trained on: {why}; {todo}")

    def source(self) -> SourceEntry:
        """What a job that names the file as its source reads."""
        options = {"path": str(self.path), "file_format": "jsonl", "compression": "none", "format": self.format}
        return SourceEntry(name=self.id, kind="local", options=options, file="uploaded file")


def new_file_id(now: datetime) -> str:
    return new_id(_PREFIX, now)


def is_file_id(text: str) -> bool:
    return is_id(_PREFIX, text)


def reading_from(file: TrainingFile, request: TrainRequest, settings: Settings) -> Settings:
    """The settings of a job whose source is `file`: all of its samples, and no other source in its place.

    How many samples and which languages a job takes is configured for the configured sources; of a file that
    was sent for it only what `request` says itself counts.
    """
    meant: dict[str, Any] = {"source": file.id, "fallback_source": None}
    if request.max_train_samples is None:
        meant["max_train_samples"] = file.samples
    if request.languages is None:
        meant["languages"] = []
    data = settings.data.model_copy(update=meant)
    return settings.model_copy(update={"data": data, "sources": {**settings.sources, file.id: file.source()}})
