"""What each route asks of its caller, in one table; a route that is not in it is for admins alone."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.routing import compile_path
from starlette.types import Scope

from adapter_service.api.callers import Calling
from adapter_service.auth import ADMIN, APP, READ
from adapter_service.errors import ForbiddenError


@dataclass(frozen=True, slots=True)
class Access:
    """`needed` is a scope, or None where nobody is asked; with `nodes`, a node's key is let in to its own things."""

    needed: str | None
    nodes: bool = False


EVERYBODY = Access(None)
_READ, _APP, _ADMIN = Access(READ), Access(APP), Access(ADMIN)
_READ_OR_NODE, _APP_OR_NODE = Access(READ, nodes=True), Access(APP, nodes=True)

ACCESS = {
    "GET /health": EVERYBODY,
    "GET /ready": _READ,
    "GET /metrics": _READ,
    "GET /openapi.json": _READ,
    "HEAD /openapi.json": _READ,
    "GET /docs": _READ,
    "HEAD /docs": _READ,
    "GET /redoc": _READ,
    "HEAD /redoc": _READ,
    "POST /generate-lite": _APP_OR_NODE,
    "POST /tokenize": _APP,
    "POST /detokenize": _APP,
    "POST /v1/chat/completions": _APP_OR_NODE,
    "POST /v1/completions": _APP_OR_NODE,
    "GET /v1/models": _READ,
    "GET /v1/models/{model}": _READ,
    "POST /v1/load_lora_adapter": _ADMIN,
    "POST /v1/unload_lora_adapter": _ADMIN,
    "POST /adapter/train-lite": _APP,
    "GET /adapter/status/{job_id}": _READ,
    "POST /adapter/cancel/{job_id}": _APP,
    "POST /adapter/pause/{job_id}": _APP,
    "POST /adapter/resume/{job_id}": _APP,
    "GET /adapter/logs/{job_id}": _READ,
    "GET /adapter/logs/{job_id}/tail": _READ,
    "GET /adapter/list": _READ,
    "POST /adapter/{name}/rollback": _ADMIN,
    "GET /sources": _READ,
    "GET /sources/{name}/preview": _READ,
    "POST /v1/files": _APP,
    "GET /v1/files": _READ,
    "GET /v1/files/{file_id}": _READ,
    "GET /v1/files/{file_id}/content": _READ,
    "DELETE /v1/files/{file_id}": _APP,
    "POST /v1/fine_tuning/jobs": _APP,
    "GET /v1/fine_tuning/jobs": _READ,
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}": _READ,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel": _APP,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/pause": _APP,
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/resume": _APP,
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/events": _READ,
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints": _READ,
    "POST /rl/collect": _APP,
    "GET /rl/status": _READ,
    "POST /api/v0/adapters/train": _APP_OR_NODE,
    "GET /api/v0/adapters/jobs/{job_id}": _READ_OR_NODE,
    "POST /api/v0/adapters/jobs/{job_id}/cancel": _APP_OR_NODE,
    "POST /api/v0/adapters/jobs/{job_id}/acknowledge": _APP_OR_NODE,
    # The vocabulary is the same for everybody, and hubs ask for it before they have a key.
    "GET /api/v0/adapters/date-keys": EVERYBODY,
    # The signed token in the path is what lets in.
    "GET /api/v0/artifacts/{token}/adapter.zip": EVERYBODY,
    "HEAD /api/v0/artifacts/{token}/adapter.zip": EVERYBODY,
    "POST /api/v0/commands/route": _APP_OR_NODE,
    "POST /llm-proxy/jobs/queue": _APP,
    "POST /llm-proxy/jobs/{job_id}/cancel": _APP,
}

_FOR_EVERYBODY = [
    (method, compile_path(path)[0])
    for method, path in (route.split(" ") for route, access in ACCESS.items() if access is EVERYBODY)
]


def access_to(method: str, path: str) -> Access:
    """What the route with this template asks for."""
    return ACCESS.get(f"{method} {path}", _ADMIN)


def is_for_everybody(scope: Scope) -> bool:
    """Whether the request goes to a route that nobody has to show a key for."""
    return any(scope["method"] == method and pattern.match(scope["path"]) for method, pattern in _FOR_EVERYBODY)


async def authorize(request: Request, caller: Calling) -> None:
    """For every route, before its body is checked: its scope, or a node's key where it takes those.

    Raises:
        ForbiddenError: the caller's key has neither.
    """
    path = request.scope["route"].path_format
    access = access_to(request.method, path)
    if access.needed is None or caller.may(access.needed) or (access.nodes and caller.node_id is not None):
        return
    raise ForbiddenError(
        f"the key {caller.name!r} has the scope {', '.join(sorted(caller.scopes))}, and {request.method} {path} "
        f"needs {access.needed}; use another key, or create one with "
        f"`adapter-service keys create NAME --scope {access.needed}`"
    )
