"""The OpenAPI document is complete: every field, every error, examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.errors import PROBLEM_JSON


@pytest.fixture
def document(client: TestClient) -> Any:
    return client.get("/openapi.json").json()


def operations(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_route_of_the_specification_is_there(document: Any) -> None:
    assert {name for name, _ in operations(document)} == {
        "POST /adapter/train-lite",
        "GET /adapter/status/{job_id}",
        "POST /adapter/cancel/{job_id}",
        "POST /adapter/pause/{job_id}",
        "POST /adapter/resume/{job_id}",
        "POST /v1/files",
        "GET /v1/files",
        "GET /v1/files/{file_id}",
        "GET /v1/files/{file_id}/content",
        "DELETE /v1/files/{file_id}",
        "POST /v1/fine_tuning/jobs",
        "GET /v1/fine_tuning/jobs",
        "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}",
        "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel",
        "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/pause",
        "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/resume",
        "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/events",
        "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
        "GET /adapter/list",
        "POST /adapter/{name}/rollback",
        "GET /adapter/logs/{job_id}",
        "GET /adapter/logs/{job_id}/tail",
        "GET /sources",
        "GET /sources/{name}/preview",
        "POST /generate-lite",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/load_lora_adapter",
        "POST /v1/unload_lora_adapter",
        "POST /rl/collect",
        "GET /rl/status",
        "POST /tokenize",
        "POST /detokenize",
        "GET /health",
        "GET /ready",
        "GET /metrics",
        "POST /api/v0/adapters/train",
        "GET /api/v0/adapters/jobs/{job_id}",
        "POST /api/v0/adapters/jobs/{job_id}/cancel",
        "POST /api/v0/adapters/jobs/{job_id}/acknowledge",
        "GET /api/v0/adapters/date-keys",
        "GET /api/v0/artifacts/{token}/adapter.zip",
        "POST /api/v0/commands/route",
        "POST /llm-proxy/jobs/queue",
        "POST /llm-proxy/jobs/{job_id}/cancel",
    }


def test_no_operation_is_named_twice(document: Any) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere(document: Any) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


def test_every_error_is_described_in_the_shape_of_its_api(document: Any) -> None:
    for name, operation in operations(document):
        other = any(f" {prefix}/" in name for prefix in ("/v1", "/api/v0", "/llm-proxy"))
        for status, response in operation["responses"].items():
            if status >= "400":
                assert list(response["content"]) == ["application/json" if other else PROBLEM_JSON], f"{name} {status}"
        assert {"401", "400" if other else "422", "500"} <= operation["responses"].keys(), name
        assert not other or "422" not in operation["responses"], name


def test_every_operation_has_words_and_bodies_have_examples(document: Any) -> None:
    for name, operation in operations(document):
        assert operation["description"], name
    for path in ("/adapter/train-lite", "/generate-lite", "/v1/chat/completions"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert len(body["examples"]) >= 3


def test_bounds_of_the_settings_and_older_names_are_in_the_training_schema(document: Any) -> None:
    properties = document["components"]["schemas"]["TrainBody"]["properties"]
    assert {"minimum": 1, "maximum": 1024, "type": "integer"}.items() <= properties["lora_r"]["anyOf"][0].items()
    assert properties["max_samples"]["deprecated"] is True


def test_a_stream_is_described_beside_the_answer(document: Any) -> None:
    answer = document["paths"]["/generate-lite"]["post"]["responses"]["200"]["content"]
    assert set(answer) == {"application/json", "text/event-stream"}
