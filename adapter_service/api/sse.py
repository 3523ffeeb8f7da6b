"""Server-sent events as this service writes them: JSON in UTF-8, an error as a problem, kept back by no proxy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.sse import format_sse_event
from starlette.types import Scope

from adapter_service.api.errors import problem_of

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
# Proxies give up on a connection that is silent for a minute.
KEEP_ALIVE_SECONDS = 15.0


def sse(name: str, data: dict[str, Any], event_id: int | str | None = None) -> bytes:
    """One event."""
    text = json.dumps(data, ensure_ascii=False)
    return format_sse_event(event=name, data_str=text, id=None if event_id is None else str(event_id))


async def or_problem(scope: Scope, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`events`, and `error` with the problem where they fail: the status is sent by then."""
    try:
        async for encoded in events:
            yield encoded
    except Exception as error:  # noqa: BLE001 - it goes to whoever reads
        yield sse("error", problem_of(scope, error))
