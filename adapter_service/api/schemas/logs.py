"""The log of one job, in pages."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from adapter_service.api.schemas.fields import Answer, FollowQuery, QueryParameters
from adapter_service.jobs.logs import LogPage


class LogQuery(FollowQuery):
    start: int = Field(default=0, ge=0, le=1_000_000_000, description="First line; 0 is the oldest.")
    limit: int = Field(default=500, ge=1, le=5000, description="Of a page; not with `follow`.")


class TailQuery(QueryParameters):
    n: int = Field(default=200, ge=1, le=5000)


class LogAnswer(Answer):
    job_id: str
    start: int
    end: int = Field(description="The line after the last one here: the next `start`.")
    total: int
    lines: list[str]

    @classmethod
    def of(cls, job_id: str, page: LogPage) -> Self:
        end = page.start + len(page.lines)
        return cls(job_id=job_id, start=page.start, end=end, total=page.total, lines=list(page.lines))
