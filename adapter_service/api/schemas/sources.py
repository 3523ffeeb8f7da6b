"""Configured sources, and a look at their first samples."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from adapter_service.api.schemas.fields import Answer, QueryParameters
from adapter_service.samples import Sample


class SourceAnswer(Answer):
    name: str
    kind: str
    default: bool = Field(description="Whether a job that names no source reads this one.")
    options: dict[str, Any] = Field(description="As configured: secrets masked, headers and folders left out.")


class SourceList(Answer):
    sources: list[SourceAnswer]


class PreviewQuery(QueryParameters):
    n: int = Field(default=5, ge=1, le=50, description="How many samples.")


class MessageAnswer(Answer):
    role: str
    content: str


class SampleAnswer(Answer):
    messages: list[MessageAnswer]
    language: str | None
    origin: str

    @classmethod
    def of(cls, sample: Sample) -> Self:
        messages = [MessageAnswer(role=message.role, content=message.content) for message in sample.messages]
        return cls(messages=messages, language=sample.language, origin=sample.origin)


class PreviewAnswer(Answer):
    source: str
    samples: list[SampleAnswer]
    skipped: dict[str, int] = Field(description="Reason → records that gave no sample, up to the last one shown.")
