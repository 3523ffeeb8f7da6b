"""Adapters and their versions over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import Field

from adapter_service.adapters import Version, VersionStatus
from adapter_service.adapters.uploads import Upload, UploadStatus
from adapter_service.api.errors import without_paths
from adapter_service.api.schemas.fields import Answer


class UploadAnswer(Answer):
    status: UploadStatus
    attempts: int
    next_attempt_at: datetime | None = Field(description="Null for one that is not pending.")
    reason: str | None = Field(description="Why the last attempt came to nothing.")

    @classmethod
    def of(cls, upload: Upload) -> Self:
        pending = upload.status is UploadStatus.PENDING
        return cls(
            status=upload.status,
            attempts=upload.attempts,
            next_attempt_at=upload.next_attempt_at if pending else None,
            reason=without_paths(upload.reason) if upload.reason else None,
        )


class VersionAnswer(Answer):
    version: int
    status: VersionStatus
    created_at: datetime
    job_id: str | None
    key: str = Field(description="Hash of what the version was made of.")
    gate: Mapping[str, Any]
    stores: Mapping[str, UploadAnswer] = Field(description="By store: whether other machines can pull the version.")

    @classmethod
    def of(cls, version: Version, uploads: Iterable[Upload]) -> Self:
        return cls(
            version=version.number,
            status=version.status,
            created_at=version.created_at,
            job_id=version.job_id,
            key=version.key,
            gate=version.gate,
            stores={upload.store: UploadAnswer.of(upload) for upload in uploads},
        )


class AdapterAnswer(Answer):
    name: str
    live_version: int | None = Field(description="What the bare name means now; null when nothing is live.")
    versions: list[VersionAnswer] = Field(description="Newest first.")


class AdapterList(Answer):
    adapters: list[AdapterAnswer]
    base: str = Field(description="The one base that all of them are for.", examples=["package:gemma3-270m"])
    default_adapter: str


class RollbackAnswer(Answer):
    adapter: str
    live_version: int
    message: str
