"""Every error is a problem with a status of its own, and tells nothing of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from adapter_service import errors
from adapter_service.api.errors import PROBLEM_JSON, STATUS, error_response, without_paths
from adapter_service.api.services import Services
from tests.api.conftest import client_of


def tree(cls: type[errors.AdapterServiceError]) -> Iterator[type[errors.AdapterServiceError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from tree(child)


def test_every_error_class_has_a_status_and_a_code_of_its_own() -> None:
    classes = list(tree(errors.AdapterServiceError))
    assert set(classes) == set(STATUS)
    assert len({cls.code for cls in classes}) == len(classes)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_route"),
        ("GET", "/generate-lite", 405, "method_not_allowed"),
        ("GET", "/adapter/status/job_0", 404, "unknown_job"),
        ("POST", "/adapter/nobody/rollback", 404, "unknown_adapter"),
        ("GET", "/sources/smal/preview", 404, "unknown_source"),
        ("GET", "/ready", 503, "not_ready"),
        ("POST", "/generate-lite", 422, "invalid_parameter"),
    ],
)
def test_an_error_is_a_problem(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    response = client.request(method, path)
    problem = response.json()
    assert response.headers["content-type"] == PROBLEM_JSON
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["trace_id"] == response.headers["X-Trace-Id"]
    assert problem["instance"] == path


def test_a_wrong_method_is_told_the_right_one(client: TestClient) -> None:
    assert client.get("/generate-lite").headers["allow"] == "POST"


def test_those_who_come_too_early_are_told_when_to_come_back(client: TestClient) -> None:
    response = client.get("/ready")
    assert int(response.headers["Retry-After"]) > 0
    assert "waiting to be started" in response.json()["detail"]


def test_a_request_that_memory_ran_out_for_is_told_when_to_come_back() -> None:
    response = error_response({"type": "http", "path": "/generate-lite"}, errors.OverloadedError("no memory is left"))
    assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (503, True)


def test_something_unexpected_is_a_problem_without_its_reason(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret of /home/someone/place")

    monkeypatch.setattr(type(services.jobs), "get", broken)
    response = client_of(services).get("/adapter/status/job_0", headers={"X-Trace-Id": "t-1"})
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert "t-1" in [getattr(record, "trace_id", "") for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_a_problem(client: TestClient, announced: bool) -> None:
    body = b'{"prompt": "' + b"x" * 1_100_000 + b'"}'
    content = body if announced else iter([body[:600_000], body[600_000:]])
    response = client.post("/generate-lite", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert response.headers["content-type"] == PROBLEM_JSON
    assert "1048576" in response.json()["detail"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /home/me/bases/x.gguf: gone", "cannot read x.gguf: gone"),
        ("train with POST /adapter/train-lite", "train with POST /adapter/train-lite"),
        ("no answer from http://host/a/b/c", "no answer from http://host/a/b/c"),
    ],
)
def test_paths_of_this_machine_are_cut_to_their_last_part(text: str, shown: str) -> None:
    assert without_paths(text) == shown


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"prompt": "\xff"}', "not UTF-8 text (byte 12)"),
        (b"[" * 100_000, "too many levels"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "more than 4300 digits"),
    ],
)
def test_a_body_that_cannot_be_read_at_all_says_why(client: TestClient, body: bytes, reason: str) -> None:
    response = client.post("/generate-lite", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_body")
    assert reason in response.json()["detail"]


def test_a_field_with_half_a_character_in_its_name_is_refused_for_that(client: TestClient) -> None:
    response = client.post("/tokenize", content=b'{"\\ud800": 1}', headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")
    assert "the name of a field has half a character" in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/health", "GET"), ("/v1/files", "GET, POST"), ("/v1/files/file-0", "DELETE, GET"), ("/docs", "GET, HEAD")],
)
def test_a_wrong_method_is_told_all_that_the_path_takes(client: TestClient, path: str, methods: str) -> None:
    answer = client.patch(path)
    assert (answer.status_code, ", ".join(sorted(answer.headers["Allow"].split(", ")))) == (405, methods)
