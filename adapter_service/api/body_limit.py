"""Bounds request bodies, with Starlette's middleware and our kind of answer.

FastAPI's `max_body_size`, of the application or of a router, puts the same middleware outside of every
handler, where its plain-text 413 for an announced body cannot be made a problem.
"""

from __future__ import annotations

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapter_service.api.errors import problem_object, problem_response
from adapter_service.settings import SecuritySettings

# Where bodies are streamed to the disk, and never held in memory.
UPLOADS = "/v1/files"


class BodyLimit:
    """Pure ASGI: a body larger than the settings allow, announced or chunked, is refused with 413.

    That is `security.max_body_bytes`, or for a body that is written to the disk as it comes, `max_upload_bytes`.
    """

    def __init__(self, app: ASGIApp, security: SecuritySettings) -> None:
        self._security = security
        self._limited = RequestBodyLimitMiddleware(app, max_body_size=security.max_body_bytes)
        self._uploads = RequestBodyLimitMiddleware(app, max_body_size=security.max_upload_bytes)

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

        limited = self._uploads if _is_upload(scope) else self._limited
        await limited(scope, receive, send_as_problem)

    def _problem(self, scope: Scope) -> dict[str, object]:
        setting = "max_upload_bytes" if _is_upload(scope) else "max_body_bytes"
        return problem_object(
            scope,
            status=413,
            code="body_too_large",
            detail=f"the body has over {getattr(self._security, setting)} bytes (security.{setting}); send less",
        )


def _is_upload(scope: Scope) -> bool:
    return scope["type"] == "http" and str(scope["path"]) == UPLOADS
