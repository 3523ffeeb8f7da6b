"""What a job said while it ran."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.logs import LogAnswer, LogQuery, TailQuery
from adapter_service.api.services import Wired

router = APIRouter(prefix="/adapter/logs", tags=["training"], responses=can_fail_with(404))


@router.get("/{job_id}")
def read_log(job_id: str, page: Annotated[LogQuery, Query()], services: Wired) -> LogAnswer:
    """A page of the log, oldest lines first; `end` is the next page's `start`."""
    services.jobs.get(job_id)
    return LogAnswer.of(job_id, services.logs.read(job_id, page.start, page.limit))


@router.get("/{job_id}/tail")
def tail_log(job_id: str, last: Annotated[TailQuery, Query()], services: Wired) -> LogAnswer:
    """The last `n` lines."""
    services.jobs.get(job_id)
    return LogAnswer.of(job_id, services.logs.tail(job_id, last.n))
