"""Adapters and their versions over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import Field

from adapter_service.adapters import Version, VersionStatus
from adapter_service.api.schemas.fields import Answer


class VersionAnswer(Answer):
    version: int
    status: VersionStatus
    created_at: datetime
    job_id: str | None
    key: str = Field(description="Hash of what the version was made of.")
    gate: Mapping[str, Any]

    @classmethod
    def of(cls, version: Version) -> Self:
        return cls(
            version=version.number,
            status=version.status,
            created_at=version.created_at,
            job_id=version.job_id,
            key=version.key,
            gate=version.gate,
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
