"""The OpenAPI document: every error as `application/problem+json`, on every operation that can have it.

Under /v1 errors are in OpenAI's shape, and a field at fault is 400 there.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from adapter_service.api.errors import PROBLEM_JSON
from adapter_service.api.openai_errors import speaks_openai
from adapter_service.api.schemas.fields import Fault, Problem
from adapter_service.api.schemas.openai import OpenAIError, OpenAIErrorBody

DESCRIPTION = """Streams text, trains small LoRA adapters on one resident base model, gates them, and serves
them from the same process. Errors are problems (RFC 9457) with a stable `code`; every answer has the
header `X-Trace-Id`. Under /v1 is the API that OpenAI's clients speak, with its own shape of errors."""

_REASONS = {
    "400": "The body is not UTF-8 text, nested too deep, or has a number of thousands of digits.",
    "401": "The peer may not: without API keys only peers on this machine are answered.",
    "403": "The source is an address that is not on the allow-list.",
    "404": "What is named does not exist; `detail` says what does.",
    "409": "The right request at the wrong moment, or a repeated Idempotency-Key with another body.",
    "413": "The body is larger than `security.max_body_bytes`.",
    "422": "A field is unknown, missing or impossible; `parameter` names it.",
    "429": "A queue is full; Retry-After says when another try makes sense.",
    "500": "Something unexpected; the log has it under `trace_id`.",
    "502": "The source could not be read.",
    "503": "The base still loads, or could not be loaded (see /ready), or the state database is locked or read-only.",
    "507": "The disk of the state folder is full; nothing was accepted.",
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."}}
_HEADERS: dict[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "429": _RETRY_AFTER,
    "503": _RETRY_AFTER,
    "507": _RETRY_AFTER,
}
_EVERYWHERE = ("401", "422", "500", "503")
_OF_OPENAI = {"400": "The body cannot be read, or a field is unknown, missing or impossible; `param` names it."}


def can_fail_with(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: the statuses it may have beside those that every route may have."""
    return {status: {"description": _REASONS[str(status)]} for status in statuses}


def event_stream(description: str, example: str, **events: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: server-sent events, each with the schema of its data; `error` has a problem."""
    known = {**events, "error": schema_of("Problem")}
    return {
        200: {
            "description": description,
            "content": {
                "text/event-stream": {
                    "itemSchema": {"anyOf": [_event(name, data) for name, data in known.items()]},
                    "example": example,
                }
            },
        }
    }


def data_stream(description: str, example: str) -> dict[int | str, dict[str, Any]]:
    """As `event_stream`, of events without names: each is JSON, the last one `[DONE]`, or an error instead of it."""
    # "message" is what an event without a name is called by whoever reads it.
    properties = {"data": {"type": "string"}, "event": {"const": "message"}}
    event = {"type": "object", "properties": properties, "required": ["data"]}
    content = {"text/event-stream": {"itemSchema": {**event, "additionalProperties": False}, "example": example}}
    return {200: {"description": description, "content": content}}


def schema_of(name: str) -> dict[str, Any]:
    """A reference to one of the document's schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(**properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these properties and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _event(name: str, data: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "event": {"const": name},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
        "id": {"type": "string"},
    }
    return {"type": "object", "properties": properties, "required": ["event", "data"], "additionalProperties": False}


def describe_problems(app: FastAPI) -> None:
    """Replace `app.openapi` by one whose errors look as they are."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(
                get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for model in (Fault, Problem, OpenAIErrorBody, OpenAIError):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        schemas[model.__name__] = schema
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _describe(operation, openai=speaks_openai({"path": path}))
    return document


def _describe(operation: dict[str, Any], *, openai: bool) -> None:
    responses = operation["responses"]
    statuses = {*_EVERYWHERE, *(status for status in responses if status >= "400")}
    if "requestBody" in operation:
        statuses |= {"400", "413"}
    content: dict[str, Any] = {PROBLEM_JSON: {"schema": schema_of("Problem")}}
    if openai:
        content = {"application/json": {"schema": schema_of("OpenAIError")}}
        responses.pop("422", None)
        statuses = statuses - {"422"} | {"400"}
    for status in sorted(statuses):
        responses[status] = {
            "description": _OF_OPENAI.get(status, _REASONS[status]) if openai else _REASONS[status],
            "content": content,
            "headers": dict(_HEADERS.get(status, {})),
        }
    ids = ("X-Trace-Id", "X-Request-Id") if openai else ("X-Trace-Id",)
    for response in responses.values():
        response.setdefault("headers", {}).update({name: {"schema": {"type": "string"}} for name in ids})
