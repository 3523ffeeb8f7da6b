"""Errors as hubs read them: under /api/v0 all faults in a list, under /llm-proxy one object with a code.

What went wrong is a problem as everywhere (`errors.py`); here are its words for those clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Scope

COMMANDS_PREFIX, QUEUE_PREFIX = "/api/v0/", "/llm-proxy/"
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found", 409: "conflict", 429: "rate_limited"}


def speaks_commands(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith(COMMANDS_PREFIX)


def speaks_queue(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith(QUEUE_PREFIX)


def commands_response(problem: Mapping[str, Any], headers: Mapping[str, str]) -> JSONResponse:
    """`{"error": code, "details": [{"path", "code", "message"}]}`; a body at fault is 400."""
    return JSONResponse(commands_error(problem), _status_of(problem), headers)


def commands_error(problem: Mapping[str, Any]) -> dict[str, Any]:
    one = {"path": problem.get("parameter") or "", "code": problem["code"], "message": problem["detail"]}
    faults = problem.get("faults") or [one]
    return {"error": problem["code"], "details": faults, "trace_id": problem["trace_id"]}


def queue_response(problem: Mapping[str, Any], headers: Mapping[str, str]) -> JSONResponse:
    """`{"error": {"type", "message", "code"}}`."""
    return JSONResponse(queue_error(problem), _status_of(problem), headers)


def queue_error(problem: Mapping[str, Any]) -> dict[str, Any]:
    status = _status_of(problem)
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    faults = problem.get("faults")
    error = {"type": kind, "message": problem["detail"], "code": _queue_code(problem["code"], faults)}
    return {"error": error | ({"details": faults} if faults else {})}


def _status_of(problem: Mapping[str, Any]) -> int:
    status: int = problem["status"]
    return 400 if status == 422 else status


def _queue_code(code: str, faults: Sequence[Mapping[str, Any]] | None) -> str:
    """Which part of the envelope is at fault, in the hub's words."""
    if code != "invalid_schema":
        return "invalid_request" if code in {"invalid_body", "invalid_parameter"} else code
    paths = [str(fault["path"]) for fault in faults or ()]
    if any(path in {"request", "request.dataset_ref", "request.dataset_ref.data.commands"} for path in paths):
        return "missing_schema"
    return "invalid_adapter_request" if any(path.startswith("request") for path in paths) else "invalid_request"
