"""The Postman collection is that of this service, and each of its requests is one that the service takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.documentation.postman import COLLECTION, PROMPTS, SCHEMA, collection_text
from adapter_service.documentation.tables import api_document
from adapter_service.jobs.job import Job
from adapter_service.settings import Settings

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    return api_document()


@pytest.fixture(scope="module")
def kept() -> Json:
    content: Json = json.loads(COLLECTION.read_text(encoding="utf-8"))
    return content


def requests_of(collection: Json) -> Iterator[tuple[str, Json]]:
    for folder in collection["item"]:
        for item in folder["item"]:
            yield item["name"], item["request"]


def path_of(request: Json) -> str:
    return "/" + "/".join(f"{{{part[1:]}}}" if part.startswith(":") else part for part in request["url"]["path"])


def test_the_collection_in_the_repository_is_the_one_that_is_made(document: Json) -> None:
    assert collection_text(document, Settings()) == COLLECTION.read_text(encoding="utf-8"), "run `make docs`"


def test_every_operation_and_every_example_is_in_it(document: Json, kept: Json) -> None:
    requests = [request for _, request in requests_of(kept)]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found = [r for r in requests if (r["method"], path_of(r)) == (method.upper(), path)]
            assert found, f"{method} {path}"
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies = [json.loads(request["body"]["raw"]) for request in found if "raw" in request.get("body", {})]
            for example in body.get("examples", {}).values():
                assert example["value"] in bodies
            parameters = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"}
            assert {entry["key"] for entry in found[0]["url"].get("query", ())} == parameters


def test_the_ten_prompts_ask_what_their_file_has(kept: Json) -> None:
    (folder,) = [folder for folder in kept["item"] if folder["name"] == "ten prompts"]
    asked = [json.loads(item["request"]["body"]["raw"]) for item in folder["item"]]
    wanted = json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]
    assert [(body["prompt"], body["lang"]) for body in asked] == [(p["prompt"], p["language_code"]) for p in wanted]
    assert len(asked) == 10


def test_it_names_its_format_and_defines_every_variable_that_it_uses(kept: Json) -> None:
    assert kept["info"]["schema"] == SCHEMA
    defined = {variable["key"] for variable in kept["variable"]}
    assert set(re.findall(r"\{\{(\w+)\}\}", json.dumps(kept))) == defined


def test_the_service_takes_every_request_of_it(kept: Json, client: TestClient, services: Services) -> None:
    # Without a base nothing is generated, and without versions nothing rolled back; what is asked is right.
    job = a_job(services)
    services.episodes.start()
    values = {"base_url": "", "job_id": job.id, "adapter": "multilingual", "source": "small", "token": "a.b"}
    for name, request in requests_of(kept):
        if request["method"] == "POST" and "job_id}" in path_of(request):
            values["job_id"] = a_job(services).id
        if "{file_id}" in path_of(request):
            values["file_id"] = send_file(client)
        values["fine_tuning_job_id"] = values["job_id"].replace("job_", "ftjob-")
        response = send(client, request, values)
        # Another base than the default one is resident here, which its names for hubs say.
        assert response.status_code in {200, 202, 400, 403, 404, 409, 429, 503}, f"{name}: {response.text}"
        if response.status_code in {400, 403, 404}:
            assert codes_of(response.json()) <= ALLOWED[response.status_code], f"{name}: {response.text}"
    services.episodes.stop(5)


ALLOWED = {
    400: {"unknown_base_model"},
    403: {"bad_link"},
    404: {"unknown_adapter", "unknown_source", "model_not_found", "unknown_node", "unknown_job"},
}


def codes_of(answer: Json) -> set[str]:
    """In any of the shapes that errors have."""
    error = answer.get("error", answer)
    details = answer.get("details") or (error.get("details") if isinstance(error, dict) else None)
    return {fault["code"] for fault in details} if details else {error["code"]}


def send_file(client: TestClient) -> str:
    files = {"file": ("a.jsonl", b'{"prompt": "a", "completion": "b"}')}
    file_id: str = client.post("/v1/files", files=files, data={"purpose": "fine-tune"}).json()["id"]
    return file_id


def a_job(services: Services) -> Job:
    return services.jobs.create({"source": "small"}, adapter="multilingual", trace_id="t", queue_limit=99)


def send(client: TestClient, request: Json, values: dict[str, str]) -> Any:
    def filled(text: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], text)

    url = filled(request["url"]["raw"])
    for variable in request["url"].get("variable", ()):
        url = url.replace(f":{variable['key']}", filled(variable["value"]))
    headers = {entry["key"]: entry["value"] for entry in request["header"] if not entry.get("disabled")}
    body = request.get("body", {})
    if body.get("mode") == "formdata":
        fields = {field["key"]: field["value"] for field in body["formdata"] if field["type"] == "text"}
        chosen = {field["key"]: ("a.jsonl", b"{}") for field in body["formdata"] if field["type"] == "file"}
        return client.request(request["method"], url, data=fields, files=chosen, headers=headers)
    content = filled(body["raw"]) if body else None
    return client.request(request["method"], url, content=content, headers=headers)
