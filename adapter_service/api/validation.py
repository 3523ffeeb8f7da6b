"""Faults of a request as sentences: the field as the caller wrote it, the value found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from adapter_service.api.schemas.fields import HALF_A_CHARACTER, TRACE_ID, TRACE_ID_PATTERN, TRACE_ID_WISH
from adapter_service.api.schemas.training import OLDER_NAMES
from adapter_service.suggestions import did_you_mean

_SHOWN_CHARACTERS = 80
_JSON_WORDS = {"None": "null", "True": "true", "False": "false"}
# pydantic's kind of fault → what is wanted, and how to write it.
_WISHES = {
    "string_type": "a text is wanted: put it in quotes",
    "int_type": "a whole number is wanted: write it without quotes",
    "float_type": "a number is wanted: write it without quotes",
    "bool_type": "true or false is wanted: write one of them without quotes",
    "list_type": "a list is wanted: write [ ] around it",
}


def describe(error: RequestValidationError, request: Request) -> list[dict[str, Any]]:
    """One fault per field, as {parameter, message}."""
    faults = []
    for detail in _one_per_field(error.errors(), error.body):
        where, name = detail["loc"][0], _name(detail, error.body)
        message = _sentence(detail, where, name, _allowed(request, where, name))
        faults.append({"parameter": name or None, "message": message})
    return faults


def _one_per_field(details: Iterable[Mapping[str, Any]], body: Any) -> list[Mapping[str, Any]]:
    """The members of a union each complain; kept is the one that got furthest into the value."""
    kept: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for detail in details:
        name = _name(detail, body)
        field = (name,) if "." in name else tuple(detail["loc"][:2])
        if field not in kept or len(detail["loc"]) > len(kept[field]["loc"]):
            kept[field] = detail
    return list(kept.values())


def first_parameter(faults: Sequence[Mapping[str, Any]]) -> str | None:
    return next((fault["parameter"] for fault in faults if fault["parameter"]), None)


def trace_id_in(body: Any) -> str | None:
    """The trace id of a body that was refused, when that at least is right."""
    given = body.get("trace_id") if isinstance(body, Mapping) else None
    return given if isinstance(given, str) and TRACE_ID.fullmatch(given) else None


def _name(detail: Mapping[str, Any], body: Any) -> str:
    """Where the fault is, as `list[0].field`, without what pydantic adds for members of unions."""
    where, *path = detail["loc"]
    if detail["type"] == HALF_A_CHARACTER and not path:
        return str(detail["ctx"]["where"])
    if where == "body" and (detail["type"] == "json_invalid" or not path):
        return ""
    name = str(path[0])
    written = body if isinstance(body, Mapping) else {}
    if where == "body" and name not in written:
        name = next((old for old, new in OLDER_NAMES.items() if new == name and old in written), name)
    value = written.get(name)
    for part in path[1:]:
        if isinstance(part, int):
            name, value = f"{name}[{part}]", value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, Mapping) and (part in value or detail["type"] == "missing"):
            name, value = f"{name}.{part}", value.get(part)
    return name


def _sentence(detail: Mapping[str, Any], where: str, name: str, allowed: Sequence[str]) -> str:
    kind, word = detail["type"], name.rpartition(".")[2]
    if kind == "json_invalid":
        return f"the body is not JSON ({detail['ctx']['error']} at character {detail['loc'][1]}); mend it there"
    if kind == "extra_forbidden":
        return f"unknown field '{name}'{did_you_mean(word, allowed)} allowed: {', '.join(allowed) or 'none'}"
    if kind == "missing":
        return f"'{name}' is missing; add it" if name else "the body is missing; send JSON"
    if kind == HALF_A_CHARACTER:
        return str(detail["ctx"]["sentence"])
    if not name:
        return "the body is not a JSON object; send one, with Content-Type: application/json"
    wish = _wish(detail)
    noun = {"path": "path parameter ", "query": "query parameter ", "header": "header "}.get(where, "")
    return f"{noun}'{name}' is {_shown(detail['input'])}; {wish}"


def _wish(detail: Mapping[str, Any]) -> str:
    """What is wanted and what to do; pydantic's own words where they say that."""
    context = detail.get("ctx", {})
    if detail["type"] == "string_too_short":
        return f"at least {context['min_length']} character is wanted: write it"
    if detail["type"] == "string_too_long":
        return f"at most {context['max_length']} characters are allowed: shorten it"
    if detail["type"] == "string_pattern_mismatch" and context["pattern"] == TRACE_ID_PATTERN:
        return TRACE_ID_WISH
    own = str(detail["msg"]).removeprefix("Value error, ").replace("Input should", "it should")
    return _WISHES.get(detail["type"], own)


def _shown(value: Any) -> str:
    text = _JSON_WORDS.get(str(value), repr(value)) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _allowed(request: Request, where: str, name: str) -> list[str]:
    """Names that the route's body (or query) takes, or the object in it that holds `name`."""
    schema = request.app.openapi()
    route = request.scope.get("route")
    path = schema["paths"].get(getattr(route, "path", ""), {})
    operation = path.get(request.method.lower(), {})
    if where == "query":
        return [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    properties = _properties(schema, content.get("schema", {}))
    for word in name.split(".")[:-1]:
        field = properties.get(word.partition("[")[0], {})
        properties = _properties(schema, field.get("items", field))
    return sorted(properties)


def _properties(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the object that `schema` names, alone or beside null."""
    named = [member for member in (schema, *schema.get("anyOf", [])) if "$ref" in member]
    reference = named[0]["$ref"].rpartition("/")[2] if named else ""
    found: Mapping[str, Any] = document["components"]["schemas"].get(reference, {}).get("properties", {})
    return found
