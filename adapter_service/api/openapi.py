"""The OpenAPI document: every error as `application/problem+json`, on every operation that can have it.

Under /v1 errors are in OpenAI's shape, and a field at fault is 400 there.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from adapter_service.api.access import Access, access_to
from adapter_service.api.errors import PROBLEM_JSON
from adapter_service.api.hub_errors import speaks_commands, speaks_queue
from adapter_service.api.openai_errors import speaks_openai
from adapter_service.api.schemas.commands import CommandTrainingBody, HubError, RouteBody
from adapter_service.api.schemas.fields import Fault, Problem
from adapter_service.api.schemas.openai import OpenAIError, OpenAIErrorBody
from adapter_service.api.schemas.queue import QueueBody, QueueError

# Both ways to send a key; without any keys a peer on this machine needs none.
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "ask_…"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

DESCRIPTION = """Streams text, trains small LoRA adapters on one resident base model, gates them, and serves
them from the same process. Errors are problems (RFC 9457) with a stable `code`; every answer has the
header `X-Trace-Id`. Under /v1 is the API that OpenAI's clients speak, with its own shape of errors."""

_REASONS = {
    "400": "The body is not UTF-8 text, nested too deep, or has a number of thousands of digits.",
    "401": "No good API key came with the request; while there are none, only peers on this machine are answered.",
    "403": "The key has not the scope that this needs, or the source is an address that is not on the allow-list.",
    "404": "What is named does not exist; `detail` says what does.",
    "409": "The right request at the wrong moment, or a repeated Idempotency-Key with another body.",
    "413": "The body is larger than `security.max_body_bytes`, or than what its route has of its own.",
    "416": "`Range` names no part of it.",
    "422": "A field is unknown, missing or impossible; `parameter` names it.",
    "429": "A queue is full, or there were too many requests; Retry-After says when another try makes sense.",
    "500": "Something unexpected; the log has it under `trace_id`.",
    "502": "The source could not be read.",
    "503": "The base still loads, or could not be loaded (see /ready), or the state database is locked or read-only.",
    "507": "The disk of the state folder is full; nothing was accepted.",
}
# What no route has as its model: errors, and bodies that are read by hand.
_SCHEMAS = (
    Fault,
    Problem,
    OpenAIErrorBody,
    OpenAIError,
    HubError,
    QueueError,
    CommandTrainingBody,
    RouteBody,
    QueueBody,
)
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."}}
_HEADERS: dict[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "429": _RETRY_AFTER,
    "503": _RETRY_AFTER,
    "507": _RETRY_AFTER,
}
_EVERYWHERE = ("401", "422", "429", "500", "503")
_OF_OTHERS = {"400": "The body cannot be read, or a field is unknown, missing or impossible; `param` names it."}


def can_fail_with(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: the statuses it may have beside those that every route may have."""
    return {status: {"description": _REASONS[str(status)]} for status in statuses}


def body_of(model: type[BaseModel], **examples: dict[str, Any]) -> dict[str, Any]:
    """For a route's `openapi_extra`: a JSON body that is read with every fault at once, described by `model`.

    `examples` are bodies by what they show, `_` for a blank.
    """
    shown = {name: {"summary": name.replace("_", " "), "value": value} for name, value in examples.items()}
    content = {"schema": schema_of(model.__name__), "examples": shown}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


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
    for model in _SCHEMAS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
    document["components"]["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _describe(operation, access_to(method.upper(), path), path)
    return document


def _error_of(path: str) -> str | None:
    """The schema of errors that are no problems."""
    scope = {"path": path}
    speakers = ((speaks_openai, "OpenAIError"), (speaks_commands, "HubError"), (speaks_queue, "QueueError"))
    return next((name for speaks, name in speakers if speaks(scope)), None)


def _describe(operation: dict[str, Any], access: Access, path: str) -> None:
    own_error, openai = _error_of(path), speaks_openai({"path": path})
    responses = operation["responses"]
    statuses = {*_EVERYWHERE, *(status for status in responses if status >= "400")}
    operation["security"] = [{}]
    if access.needed is not None:
        statuses |= {"403"}
        operation["security"] += [{scheme: [access.needed]} for scheme in _SCHEMES]
    if "requestBody" in operation:
        statuses |= {"400", "413"}
    content: dict[str, Any] = {PROBLEM_JSON: {"schema": schema_of("Problem")}}
    if own_error is not None:
        content = {"application/json": {"schema": schema_of(own_error)}}
        responses.pop("422", None)  # there it is 400
        statuses = statuses - {"422"} | {"400"}
    for status in sorted(statuses):
        responses[status] = {
            "description": _OF_OTHERS.get(status, _REASONS[status]) if own_error else _REASONS[status],
            "content": content,
            "headers": dict(_HEADERS.get(status, {})),
        }
    ids = ("X-Trace-Id", "X-Request-Id") if openai else ("X-Trace-Id",)
    for response in responses.values():
        response.setdefault("headers", {}).update({name: {"schema": {"type": "string"}} for name in ids})
