"""Every request has a trace id, one line in the log, and an answer even when something breaks.

The trace id is the body's `trace_id`, else the header X-Trace-Id, else X-Request-ID, else a new one.
The body goes first because proxies put X-Request-ID on whatever passes them. It is echoed in the
header X-Trace-Id, and under /v1 in X-Request-Id too, where OpenAI's clients look for it. What was asked
and answered is never logged.
"""

from __future__ import annotations

import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapter_service.api.errors import error_response
from adapter_service.api.openai_errors import speaks_openai
from adapter_service.errors import InvalidParameterError
from adapter_service.trace_ids import TRACE_ID

log = logging.getLogger(__name__)

_HEADERS = ("x-trace-id", "x-request-id")
# What nginx logs for a client that went away before its answer.
CLIENT_GONE = 499


class Tracing:
    """Pure ASGI, outermost; `scope["state"]["trace_id"]` is where the id is kept and may be replaced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["trace_id"] = secrets.token_hex(16)
        status = CLIENT_GONE
        started = time.monotonic()

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers["X-Trace-Id"] = state["trace_id"]
                if speaks_openai(scope):
                    headers["X-Request-Id"] = state["trace_id"]
            await send(message)

        try:
            state["trace_id"] = _given(Headers(scope=scope)) or state["trace_id"]
            await self._app(scope, receive, traced)
        except Exception as error:
            if status != CLIENT_GONE:
                raise  # the answer has begun; all that is left is to close the connection
            if not isinstance(error, InvalidParameterError):
                log.exception("a request failed", extra={"action": "request_failed", "trace_id": state["trace_id"]})
            await error_response(scope, error)(scope, receive, traced)
        finally:
            _log_line(scope, status, time.monotonic() - started)


def use_trace_id(request: Request, given: str | None) -> str:
    """The request's trace id, from now on the one that its body names, if it does."""
    if given is not None:
        request.state.trace_id = given
    trace_id: str = request.state.trace_id
    return trace_id


def _given(headers: Headers) -> str | None:
    for name in _HEADERS:
        value = headers.get(name)
        if value is not None:
            return _checked(name, value)
    return None


def _checked(name: str, value: str) -> str:
    if TRACE_ID.fullmatch(value) is None:
        raise InvalidParameterError(
            f"header '{name}' has {len(value)} characters or some that cannot be printed; "
            "1 to 128 printable ASCII characters are allowed",
            parameter=name,
        )
    return value


def _log_line(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "(no route)")
    trace_id = scope["state"]["trace_id"]
    log.info(
        "%s %s %d in %.0f ms, trace %s",
        scope["method"],
        route,
        status,
        seconds * 1000,
        trace_id,
        extra={
            "action": "request",
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "trace_id": trace_id,
        },
    )
