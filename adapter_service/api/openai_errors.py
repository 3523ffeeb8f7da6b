"""Errors under /v1, as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`.

What went wrong is a problem as everywhere (`errors.py`); here are its words for those clients. They map the
status to a class of theirs and try again by themselves after 408, 409, 429 and 5xx, twice, unless the answer
says `x-should-retry: false`. Every conflict of this service lasts until somebody does something, and so does what an
adapter's files are to blame for: they say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Scope

from adapter_service.api.fine_tuning_ids import with_shown_ids

PREFIX = "/v1"
LORA_PATHS = frozenset({f"{PREFIX}/load_lora_adapter", f"{PREFIX}/unload_lora_adapter"})
# A field at fault is 400 in that API; its clients would take 422 as well.
_STATUS = {422: 400}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# As vLLM calls what its two routes refuse.
_LORA_TYPES = {400: "InvalidUserInput", 404: "NotFoundError"}
_CODES = {
    "unknown_adapter": "model_not_found",
    "prompt_too_long": "context_length_exceeded",
    "busy": "rate_limit_exceeded",
    "rate_limited": "rate_limit_exceeded",
}
# Of what trains, the fields by the names that they have there.
JOBS_PATH = f"{PREFIX}/fine_tuning/jobs"
_OF_THE_FILE = frozenset({"unknown_file", "invalid_file", "unknown_source"})
_JOB_FIELDS = {"source": "training_file", "init_adapter": "model", "adapter": "suffix"}
_LASTING = frozenset({"adapter_format", "adapter_too_large"})


def speaks_openai(scope: Scope) -> bool:
    """Whether the request is to the API that OpenAI's clients speak."""
    path: str = scope["path"]
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def openai_error(problem: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an answer, or the data of a stream's last event."""
    code = _CODES.get(problem["code"], problem["code"])
    path, parameter = problem["instance"], problem.get("parameter")
    if code == "context_length_exceeded" or parameter == "prompt":
        parameter = "prompt" if path == f"{PREFIX}/completions" else "messages"
    if parameter is None and code == "model_not_found" and path not in LORA_PATHS:
        parameter = "model"
    if path == JOBS_PATH:
        parameter = "training_file" if code in _OF_THE_FILE else _JOB_FIELDS.get(parameter or "", parameter)
    return {
        "error": {
            "message": with_shown_ids(problem["detail"]),
            "type": _type_of(status_of(problem), path),
            "param": parameter,
            "code": code,
        }
    }


def status_of(problem: Mapping[str, Any]) -> int:
    status: int = problem["status"]
    return _STATUS.get(status, status)


def openai_response(problem: Mapping[str, Any], headers: Mapping[str, str]) -> JSONResponse:
    status = status_of(problem)
    lasts = status == 409 or problem["code"] in _LASTING
    return JSONResponse(openai_error(problem), status, {**headers, **({"x-should-retry": "false"} if lasts else {})})


def _type_of(status: int, path: str) -> str:
    if path in LORA_PATHS and status in _LORA_TYPES:
        return _LORA_TYPES[status]
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
