"""What a job said while it ran."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from adapter_service.api.job_streams import LOG_STREAM, LogEventId, follow_log, refuse_event_id
from adapter_service.api.job_watches import Watching
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.logs import LogAnswer, LogQuery, TailQuery
from adapter_service.api.services import Wired
from adapter_service.errors import InvalidParameterError

router = APIRouter(prefix="/adapter/logs", tags=["training"])


@router.get("/{job_id}", response_model=LogAnswer, responses={**LOG_STREAM, **can_fail_with(404, 409, 503)})
def read_log(
    job_id: str,
    page: Annotated[LogQuery, Query()],
    services: Wired,
    watches: Watching,
    last_event_id: LogEventId = None,
) -> Any:
    """A page of the log, oldest lines first; with `follow=true` every line as it comes, as server-sent events."""
    job = services.jobs.get(job_id)
    if page.follow:
        if "limit" in page.model_fields_set:
            raise InvalidParameterError("'limit' is for pages; leave it out with 'follow'", parameter="limit")
        return follow_log(job, services.logs, watches, page.start, last_event_id)
    refuse_event_id(last_event_id)
    return LogAnswer.of(job_id, services.logs.read(job_id, page.start, page.limit))


@router.get("/{job_id}/tail", responses=can_fail_with(404, 409))
def tail_log(job_id: str, last: Annotated[TailQuery, Query()], services: Wired) -> LogAnswer:
    """The last `n` lines."""
    services.jobs.get(job_id)
    return LogAnswer.of(job_id, services.logs.tail(job_id, last.n))
