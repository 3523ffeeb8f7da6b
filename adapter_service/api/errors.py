"""Errors as answers: which class has which status, and how a problem looks (RFC 9457).

Under /v1 the same problem is told in OpenAI's words (`openai_errors.py`), under /api/v0 and /llm-proxy in those of
home hubs (`hub_errors.py`).

Every class of `adapter_service.errors` stands in `STATUS`; nothing below `api/` knows these numbers.
An answer never has a traceback or a path of this machine in it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from adapter_service import errors
from adapter_service.api.hub_errors import commands_response, queue_response, speaks_commands, speaks_queue
from adapter_service.api.openai_errors import openai_response, speaks_openai
from adapter_service.api.validation import describe, first_parameter, trace_id_in
from adapter_service.storage_faults import storage_fault

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
NOT_READY_RETRY_SECONDS = 5

STATUS: dict[type[errors.AdapterServiceError], int] = {
    errors.AdapterServiceError: 500,
    errors.InvalidInputError: 422,
    errors.SettingsError: 500,  # a caller can do nothing about this service's files
    errors.InvalidParameterError: 422,
    errors.PromptTooLongError: 422,
    errors.InvalidFileError: 422,
    errors.InvalidSchemaError: 400,  # as the hubs' specification has it
    errors.ExpiredRequestError: 422,
    errors.DoesNotFitError: 422,
    errors.InvalidSampleError: 422,
    errors.NotFoundError: 404,
    errors.UnknownJobError: 404,
    errors.UnknownAdapterError: 404,
    errors.UnknownFileError: 404,
    errors.UnknownSourceError: 404,
    errors.UnknownNodeError: 404,
    errors.UnknownArtifactError: 404,
    errors.UnknownKeyError: 404,
    errors.ConflictError: 409,
    errors.WrongJobStateError: 409,
    errors.NoVersionToRollBackError: 409,
    errors.DuplicateRequestError: 409,
    errors.TooManyPinsError: 409,
    errors.FileInUseError: 409,
    errors.DamagedJobError: 409,
    errors.SupersededError: 409,
    errors.NotAuthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.BadLinkError: 403,
    errors.BusyError: 429,
    errors.RateLimitedError: 429,
    errors.OverloadedError: 503,
    errors.NotReadyError: 503,
    errors.BackendError: 502,
    errors.BackendRefusalError: 502,
    errors.BackendUnreachableError: 503,
    errors.SourceError: 502,
    errors.SourceUnreachableError: 502,
    errors.SourceFormatError: 502,
    errors.EmptySourceError: 502,
    errors.TooManyBadRecordsError: 502,
    errors.BaseModelError: 500,
    errors.AdapterFormatError: 500,
    errors.AdapterTooLargeError: 500,
    errors.NonFiniteLogitsError: 500,
    errors.SlowReaderError: 408,
    errors.ToolCallFormatError: 500,
    errors.StoreError: 502,
    errors.StoreUnreachableError: 502,
    errors.NoticeError: 502,
    errors.BrokerAwayError: 502,
    errors.DatabaseError: 500,
    errors.StorageError: 503,
    errors.StorageFullError: 507,
    errors.TrainingError: 500,
    errors.NonFiniteLossError: 500,
    errors.NothingToLearnError: 500,
    errors.OutOfMemoryError: 500,
    errors.JobCancelledError: 409,
    errors.ServiceAnswerError: 502,
    errors.RunFailedError: 500,
}

# What another try may find ended.
_PASSING = (errors.NotReadyError, errors.OverloadedError, errors.StorageError, errors.BackendUnreachableError)
_ROUTE_ERRORS = {404: "unknown_route", 405: "method_not_allowed"}
# A path of this machine: two components or more, and neither a URL's nor one of our own routes.
_PATH = re.compile(r"(?<![\w:/.])/(?!adapter/|sources/|v1/)(?:[^\s/'\",;:()]+/)+([^\s/'\",;:()]*)")


def status_of(error: errors.AdapterServiceError) -> int:
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def without_paths(text: str) -> str:
    """`text` with the last component in place of every path of this machine."""
    return _PATH.sub(r"\1", text)


def problem_object(
    scope: Scope, *, status: int, code: str, detail: str, parameter: str | None = None, **more: Any
) -> dict[str, Any]:
    """A problem as RFC 9457 has it, with our `code`, `trace_id` and, where one is at fault, `parameter`."""
    problem: dict[str, Any] = {
        "type": f"urn:adapter-service:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": without_paths(detail) if status >= 500 else detail,
        "code": code,
        "instance": scope["path"],
        "trace_id": scope.get("state", {}).get("trace_id"),
    }
    return problem | ({"parameter": parameter} if parameter else {}) | more


def problem_of(scope: Scope, error: Exception) -> dict[str, Any]:
    """The problem that `error` is; one that nobody foresaw says its trace id and no more."""
    if not isinstance(error, errors.AdapterServiceError):
        return problem_object(
            scope,
            status=500,
            code="internal_error",
            detail="something unexpected went wrong; the service's log has it under this trace_id",
        )
    more: dict[str, Any] = {}
    if isinstance(error, errors.InvalidParameterError):
        more["parameter"] = error.parameter
    if isinstance(error, errors.InvalidSchemaError):
        more["faults"] = [asdict(fault) for fault in error.faults]
    return problem_object(scope, status=status_of(error), code=error.code, detail=str(error), **more)


def problem_response(
    scope: Scope, problem: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """`problem` as an answer, in the shape that the request's path promises."""
    for speaks, response in (
        (speaks_openai, openai_response),
        (speaks_commands, commands_response),
        (speaks_queue, queue_response),
    ):
        if speaks(scope):
            return response(problem, headers or {})
    return JSONResponse(problem, problem["status"], headers, media_type=PROBLEM_JSON)


def error_response(scope: Scope, error: Exception) -> JSONResponse:
    """The whole answer to a request that ended in `error`."""
    headers = {}
    if isinstance(error, errors.BusyError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, _PASSING):
        headers["Retry-After"] = str(NOT_READY_RETRY_SECONDS)
    if isinstance(error, errors.NotAuthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="adapter-service"'  # RFC 9110 wants one with every 401
    return problem_response(scope, problem_of(scope, error), headers)


async def on_service_error(request: Request, error: Exception) -> JSONResponse:
    response = error_response(request.scope, error)
    if response.status_code == 500:
        log.error("%s", error, exc_info=error, extra={"action": "request_failed", **_trace(request)})
    return response


async def on_storage_error(request: Request, error: Exception) -> JSONResponse:
    """What SQLite or the system says of storage, in our words; anything else goes the way of the unforeseen."""
    if (fault := storage_fault(error)) is None:
        raise error
    log.error("%s", fault, exc_info=error, extra={"action": "request_failed", **_trace(request)})
    return error_response(request.scope, fault)


async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for this class
    if trace_id := trace_id_in(error.body):
        request.state.trace_id = trace_id
    faults = describe(error, request)
    problem = problem_object(
        request.scope,
        status=422,
        code="invalid_parameter",
        detail="; ".join(fault["message"] for fault in faults),
        parameter=first_parameter(faults),
        errors=faults,
    )
    return problem_response(request.scope, problem)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: no such route, wrong method, unreadable body."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for this class
    if error.status_code == 400 and error.__cause__ is not None:
        detail = _why_unreadable(error.__cause__)
        problem = problem_object(request.scope, status=400, code="invalid_body", detail=detail)
        return problem_response(request.scope, problem)
    detail = {
        404: f"there is no {request.url.path}; /docs lists what there is",
        405: f"{request.method} is not possible on {request.url.path}; see /docs for what is",
    }.get(error.status_code, str(error.detail))
    code = _ROUTE_ERRORS.get(error.status_code, "http_error")
    problem = problem_object(request.scope, status=error.status_code, code=code, detail=detail)
    headers = dict(error.headers or {})
    if error.status_code == 405 and (methods := _methods_of(request)):
        headers["Allow"] = ", ".join(methods)
    return problem_response(request.scope, problem, headers)


def _methods_of(request: Request) -> list[str]:
    """All that the path takes; the framework names those of its first route alone."""
    path = getattr(request.scope.get("route"), "path", "")
    return sorted(map(str.upper, request.app.openapi()["paths"].get(path, ())))


def _why_unreadable(cause: BaseException) -> str:
    """FastAPI tells only that it could not parse the body; what JSON's parser met is the cause."""
    if isinstance(cause, UnicodeDecodeError):
        return f"the body is not UTF-8 text (byte {cause.start}); send JSON in UTF-8"
    if isinstance(cause, RecursionError):
        return "the body has lists or objects within each other over too many levels; send the fields of /docs alone"
    if type(cause) is ValueError:  # the only one that Python's parser has beside those of JSON itself
        return f"the body has a number of more than {sys.get_int_max_str_digits()} digits; send a smaller one"
    return f"the body cannot be read ({type(cause).__name__}); send JSON in UTF-8"


def _trace(request: Request) -> dict[str, Any]:
    return {"trace_id": request.scope.get("state", {}).get("trace_id")}
