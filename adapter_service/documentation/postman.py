"""The Postman collection, made of the OpenAPI document: every operation, every example, the ten prompts.

`make docs` writes it, beside the README's tables; a test compares. Import it into Postman, or run it against
a service with `newman run`: each request checks that its answer is a documented one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from adapter_service.documentation import ROOT
from adapter_service.settings import Settings

PROMPTS = ROOT / "test_prompts" / "prompts_10.json"
COLLECTION = ROOT / "adapter_service" / "api" / "postman_collection.json"
SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_ANSWERS = "/generate-lite"
_JSON, _FORM = "application/json", "multipart/form-data"
_PLAIN = {"string": "", "integer": 1, "number": 1.0, "boolean": False, "null": None}

# The requests whose answer has an `id` that others name, and the variable which keeps it.
_MADE_BY = {"POST /v1/files": "file_id", "POST /v1/fine_tuning/jobs": "fine_tuning_job_id"}

Json = dict[str, Any]


def collection_text(document: Json, settings: Settings) -> str:
    """The collection as its file has it."""
    prompts = json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]
    return json.dumps(collection(document, prompts, settings), ensure_ascii=False, indent=1) + "\n"


def collection(document: Json, prompts: Sequence[Mapping[str, Any]], settings: Settings) -> Json:
    """A collection v2.1.0 with one folder for each tag of `document`, and one with the `prompts`."""
    return {
        "info": {"name": document["info"]["title"], "description": document["info"]["description"], "schema": SCHEMA},
        "variable": [{"key": key, "value": value} for key, value in _variables(settings).items()],
        "item": [*_folders(document), _folder("ten prompts", [_prompt(document, prompt) for prompt in prompts])],
    }


def _variables(settings: Settings) -> dict[str, str]:
    """What stands in {{…}}; ids are written by the requests that make a job or a file, `token` is of a signed URL."""
    return {
        "base_url": f"http://{settings.serving.host}:{settings.serving.port}",
        **dict.fromkeys(("job_id", "token", *_MADE_BY.values()), ""),
        "adapter": settings.serving.default_adapter,
        "source": settings.data.source,
    }


def _folders(document: Json) -> Iterator[Json]:
    by_tag: dict[str, list[Json]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).extend(_requests(document, path, method, operation))
    for tag, requests in by_tag.items():
        yield _folder(tag, requests)


def _folder(name: str, items: Iterable[Json]) -> Json:
    return {"name": name, "item": list(items)}


def _requests(document: Json, path: str, method: str, operation: Json) -> Iterator[Json]:
    """One request, or one for each example of its body."""
    if form := operation.get("requestBody", {}).get("content", {}).get(_FORM):
        yield _request(path, method, operation, form=form["schema"])
        return
    body = operation.get("requestBody", {}).get("content", {}).get(_JSON)
    if body is None:
        yield _request(path, method, operation)
    elif examples := body.get("examples"):
        for example in examples.values():
            yield _request(path, method, operation, body=example["value"], says=example["summary"])
    else:
        yield _request(path, method, operation, body=_example(document, body["schema"]))


def _prompt(document: Json, prompt: Mapping[str, Any]) -> Json:
    operation = document["paths"][_ANSWERS]["post"]
    body = {"prompt": prompt["prompt"], "lang": prompt["language_code"], "adapter": "{{adapter}}"}
    item = _request(_ANSWERS, "post", operation, body=body, says=f"{prompt['language']}: {prompt['prompt']}")
    item["request"]["description"] = f"A good answer: {prompt['reference']}"
    checks = (
        "pm.test('answered, in the language asked for', () => {",
        "  pm.response.to.have.status(200);",
        f"  pm.expect(pm.response.json().lang).to.equal('{prompt['language_code']}');",
        "});",
    )
    return {**item, "event": [_script(checks)]}


def _request(
    path: str, method: str, operation: Json, *, body: Any = None, form: Json | None = None, says: str = ""
) -> Json:
    parameters = operation.get("parameters", [])
    headers = [_optional(parameter) for parameter in parameters if parameter["in"] == "header"]
    request: Json = {
        "method": method.upper(),
        "description": operation["description"],
        "header": headers,
        "url": _url(path, parameters),
    }
    if body is not None:
        request["header"] = [{"key": "Content-Type", "value": _JSON}, *headers]
        request["body"] = {"mode": "raw", "raw": json.dumps(body, ensure_ascii=False, indent=2)}
    if form is not None:
        request["body"] = {
            "mode": "formdata",
            "formdata": [_form_field(*field) for field in form["properties"].items()],
        }
    name = f"{method.upper()} {path}"
    return {
        "name": f"{name}: {says}" if says else name,
        "event": [_script(_checks(operation, _MADE_BY.get(name)))],
        "request": request,
        "response": [],
    }


def _form_field(name: str, schema: Json) -> Json:
    """A file has to be chosen before the request is sent."""
    described = {"key": name, "description": schema.get("description", "")}
    if schema.get("format") == "binary":
        return {**described, "type": "file", "src": []}
    return {**described, "type": "text", "value": schema["enum"][0]}


def _url(path: str, parameters: Sequence[Json]) -> Json:
    """The parts of a path are ":name" here, with the collection's variable of that name (or `adapter`) as value."""
    parts = [f":{part[1:-1]}" if part.startswith("{") else part for part in path.strip("/").split("/")]
    query = [_optional(parameter) for parameter in parameters if parameter["in"] == "query"]
    names = [parameter["name"] for parameter in parameters if parameter["in"] == "path"]
    return {
        "raw": "{{base_url}}/" + "/".join(parts),
        "host": ["{{base_url}}"],
        "path": parts,
        **({"query": query} if query else {}),
        **({"variable": [{"key": name, "value": _path_value(path, name)} for name in names]} if names else {}),
    }


def _path_value(path: str, name: str) -> str:
    if name not in {"name", "model"}:
        return f"{{{{{name}}}}}"
    return "{{source}}" if path.startswith("/sources/") else "{{adapter}}"


def _optional(parameter: Json) -> Json:
    """There to be switched on."""
    value = parameter["schema"].get("default")
    shown = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    described = parameter.get("description") or parameter["schema"].get("description", "")
    return {"key": parameter["name"], "value": shown, "description": described, "disabled": True}


def _checks(operation: Json, makes: str | None = None) -> Iterator[str]:
    documented = sorted(int(status) for status in operation["responses"] if status != "500")
    yield "pm.test('answers as documented', () => {"
    yield f"  pm.expect(pm.response.code).to.be.oneOf({documented});"
    yield "  pm.expect(pm.response.headers.get('X-Trace-Id')).to.be.a('string');"
    yield "});"
    if "202" in operation["responses"]:
        yield "if (pm.response.code === 202 && pm.response.json().job_id) {"
        yield "  pm.collectionVariables.set('job_id', pm.response.json().job_id);"
        yield "}"
    if makes:
        yield f"if (pm.response.code === 200) {{ pm.collectionVariables.set('{makes}', pm.response.json().id); }}"


def _script(lines: Iterable[str]) -> Json:
    return {"listen": "test", "script": {"type": "text/javascript", "exec": list(lines)}}


def _example(document: Json, schema: Json) -> Any:
    """A value of `schema`: its example or default, else what every required field needs."""
    if "$ref" in schema:
        return _example(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if given := [*schema.get("examples", ()), *(schema[key] for key in ("default",) if key in schema)]:
        return given[0]
    if "anyOf" in schema:
        return _example(document, schema["anyOf"][0])
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        return {name: _example(document, properties[name]) for name in schema.get("required", ())}
    if schema.get("type") == "array":
        return [_example(document, schema["items"]) for _ in range(schema.get("minItems", 0))]
    return _PLAIN[schema["type"]]
