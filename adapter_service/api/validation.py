"""Faults of a request as sentences: the field as the caller wrote it, the value found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from adapter_service.api.schemas.episodes import RUN_ID_PATTERN
from adapter_service.api.schemas.fields import HALF_A_CHARACTER, TRACE_ID_PATTERN
from adapter_service.api.schemas.openai import BIASED_ID_PATTERN
from adapter_service.api.schemas.tools import FUNCTION_NAME_PATTERN
from adapter_service.api.schemas.training import OLDER_NAMES
from adapter_service.suggestions import did_you_mean
from adapter_service.trace_ids import TRACE_ID, TRACE_ID_WISH

_SHOWN_CHARACTERS = 80
_JSON_WORDS = {"None": "null", "True": "true", "False": "false"}
_OBJECT = "an object is wanted: write {{ }} with its fields"
# pydantic's kind of fault → what is wanted, and how to write it; in braces what pydantic says with it.
_WISHES = {
    "string_type": "a text is wanted: put it in quotes",
    "int_type": "a whole number is wanted: write it without quotes",
    "float_type": "a number is wanted: write it without quotes",
    "bool_type": "true or false is wanted: write one of them without quotes",
    "int_from_float": "a whole number is wanted: write it without a fraction",
    "list_type": "a list is wanted: write [ ] around it",
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "string_too_short": "at least {min_length} character is wanted: write it",
    "string_too_long": "at most {max_length} characters are allowed: shorten it",
    "too_short": "at least {min_length} member is wanted: add it",
    "too_long": "at most {max_length} members are allowed: take the others out",
    "union_tag_invalid": "its {discriminator} may be {expected_tags}: write one",
    "union_tag_not_found": "its {discriminator} is missing: add it",
}
_PATTERN_WISHES = {
    TRACE_ID_PATTERN: TRACE_ID_WISH,
    BIASED_ID_PATTERN: "a token's id is wanted, which is digits alone: POST /tokenize says it",
    FUNCTION_NAME_PATTERN: "1 to 64 of a-z, A-Z, 0-9, '_' and '-' are wanted: rename it",
    RUN_ID_PATTERN: "1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-' are wanted, the first a letter or digit: rename it",
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
    """The first fault of each field and of each list's items.

    The members of a union each complain; kept is the one that got furthest into the value, and of several the one
    that wants a value of the JSON type that is there.
    """
    members: dict[tuple[Any, ...], dict[Any, Mapping[str, Any]]] = {}
    for detail in details:
        field, member = _union(detail, body)
        members.setdefault(field, {}).setdefault(member, detail)
    return [max(faults.values(), key=lambda detail: _nearness(detail, body)) for faults in members.values()]


def _union(detail: Mapping[str, Any], body: Any) -> tuple[tuple[Any, ...], Any]:
    """The field, and the member of its union that complains; None where it is none."""
    steps = _steps(detail, body)
    label = next((place for place, (_, is_label) in enumerate(steps) if is_label), len(steps))
    field = [part for part, _ in steps[:label]]
    while label == len(steps) and field and isinstance(field[-1], int):
        field.pop()
    return (detail["loc"][0], *field), steps[label][0] if label < len(steps) else None


def _nearness(detail: Mapping[str, Any], body: Any) -> tuple[tuple[int, ...], bool]:
    place = tuple(part if isinstance(part, int) else 0 for part, is_label in _steps(detail, body) if not is_label)
    kind, found = detail["type"], detail["input"]
    if kind == "literal_error":
        return place, isinstance(found, str)
    return place, not kind.endswith("_type") or (kind == "int_type" and isinstance(found, float))


def first_parameter(faults: Sequence[Mapping[str, Any]]) -> str | None:
    return next((fault["parameter"] for fault in faults if fault["parameter"]), None)


def trace_id_in(body: Any) -> str | None:
    """The trace id of a body that was refused, when that at least is right."""
    given = body.get("trace_id") if isinstance(body, Mapping) else None
    return given if isinstance(given, str) and TRACE_ID.fullmatch(given) else None


def _name(detail: Mapping[str, Any], body: Any) -> str:
    """Where the fault is, as `list[0].field`."""
    if detail["type"] == HALF_A_CHARACTER and len(detail["loc"]) == 1:
        return str(detail["ctx"]["where"])
    name = ""
    for part, is_label in _steps(detail, body):
        if not is_label:
            name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _steps(detail: Mapping[str, Any], body: Any) -> list[tuple[Any, bool]]:
    """The way to the fault, and whether each step is a label that pydantic adds for a member of a union."""
    where, *path = detail["loc"]
    if not path or detail["type"] == "json_invalid":
        return []
    written = body if isinstance(body, Mapping) else {}
    first, *more = path
    if where == "body" and first not in written:
        first = next((old for old, new in OLDER_NAMES.items() if new == first and old in written), first)
    steps: list[tuple[Any, bool]] = [(str(first), False)]
    value = written.get(first)
    for place, part in enumerate(more, 1):
        is_absent = detail["type"] == "missing" and place == len(more)
        if isinstance(part, int):
            value = value[part] if isinstance(value, list) and part < len(value) else None
            steps.append((part, False))
        elif isinstance(value, Mapping) and (part in value or is_absent):
            value = value.get(part)
            steps.append((part, False))
        else:
            steps.append((part, True))
    return steps


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
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return _PATTERN_WISHES.get(context["pattern"], f"it should match {context['pattern']}: change it")
    if kind == "int_type" and isinstance(detail["input"], float):
        kind = "int_from_float"
    if kind in _WISHES:
        return _WISHES[kind].format_map(context)
    return str(detail["msg"]).removeprefix("Value error, ").replace("Input should", "it should")


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
