"""Bounds request bodies, with Starlette's middleware and our kind of answer.

FastAPI's `max_body_size`, of the application or of a router, puts the same middleware outside of every
handler, where its plain-text 413 for an announced body cannot be made a problem.
"""

from __future__ import annotations

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapter_service.api.errors import problem_object, problem_response
from adapter_service.settings import CommandSettings, SecuritySettings

# Where bodies are streamed to the disk, and never held in memory.
UPLOADS = "/v1/files"
# Where a hub's own prompts come with every sentence.
DATASETS = "/llm-proxy/jobs/queue"


class BodyLimit:
    """Pure ASGI: a body larger than the settings allow, announced or chunked, is refused with 413.

    That is `security.max_body_bytes`; for a body that is written to the disk as it comes, `max_upload_bytes`; for a
    hub's dataset `commands.max_dataset_bytes`.
    """

    def __init__(self, app: ASGIApp, security: SecuritySettings, commands: CommandSettings) -> None:
        self._bounds = {
            UPLOADS: ("security.max_upload_bytes", security.max_upload_bytes),
            DATASETS: ("commands.max_dataset_bytes", commands.max_dataset_bytes),
        }
        self._others = ("security.max_body_bytes", security.max_body_bytes)
        self._limited = RequestBodyLimitMiddleware(app, max_body_size=security.max_body_bytes)
        self._own = {
            path: RequestBodyLimitMiddleware(app, max_body_size=most) for path, (_, most) in self._bounds.items()
        }

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

        limited = self._own.get(_path(scope), self._limited)
        await limited(scope, receive, send_as_problem)

    def _problem(self, scope: Scope) -> dict[str, object]:
        setting, most = self._bounds.get(_path(scope), self._others)
        return problem_object(
            scope,
            status=413,
            code="body_too_large",
            detail=f"the body has over {most} bytes ({setting}); send less",
        )


def _path(scope: Scope) -> str:
    return str(scope["path"]) if scope["type"] == "http" else ""
