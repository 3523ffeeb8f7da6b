"""Bounds request bodies, with Starlette's middleware and our kind of answer.

FastAPI's `max_body_size`, of the application or of a router, puts the same middleware outside of every
handler, where its plain-text 413 for an announced body cannot be made a problem.
"""

from __future__ import annotations

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapter_service.api.errors import problem_object, problem_response


class BodyLimit:
    """Pure ASGI: a body of more than `max_body_bytes`, announced or chunked, is refused with 413."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._limited = RequestBodyLimitMiddleware(app, max_body_size=max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def send_as_problem(message: Message) -> None:
            nonlocal replaced
            # Nobody else answers 413: it is the bare one of the middleware, or of FastAPI for it.
            if message["type"] == "http.response.start" and message["status"] == 413:
                replaced = True
                await problem_response(scope, self._problem(scope))(scope, receive, send)
            elif not replaced:
                await send(message)

        await self._limited(scope, receive, send_as_problem)

    def _problem(self, scope: Scope) -> dict[str, object]:
        return problem_object(
            scope,
            status=413,
            code="body_too_large",
            detail=f"the body has over {self._max_body_bytes} bytes (security.max_body_bytes); send less",
        )
