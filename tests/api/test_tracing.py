"""One trace id per request, echoed everywhere, and one line in the log."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient


def test_a_trace_id_of_the_header_is_echoed(client: TestClient) -> None:
    assert client.get("/health", headers={"X-Trace-Id": "abc 1"}).headers["X-Trace-Id"] == "abc 1"
    assert client.get("/health", headers={"X-Request-ID": "r-2"}).headers["X-Trace-Id"] == "r-2"


def test_without_one_every_request_gets_its_own(client: TestClient) -> None:
    first, second = (client.get("/health").headers["X-Trace-Id"] for _ in range(2))
    assert first != second


def test_the_body_goes_before_the_headers(client: TestClient) -> None:
    body = {"prompt": "Hello", "adapter": "nobody", "trace_id": "from-the-body"}
    response = client.post("/generate-lite", json=body, headers={"X-Request-ID": "from-a-proxy"})
    assert response.headers["X-Trace-Id"] == response.json()["trace_id"] == "from-the-body"


def test_a_refused_body_keeps_its_trace_id(client: TestClient) -> None:
    response = client.post("/generate-lite", json={"promt": "Hello", "trace_id": "t-9"})
    assert response.json()["trace_id"] == "t-9"


@pytest.mark.parametrize("given", ["x" * 129, "tab\there", " ", "é"])
def test_a_trace_id_that_cannot_be_echoed_is_refused(client: TestClient, given: str) -> None:
    response = client.get("/health", headers=[(b"x-trace-id", given.encode())])
    assert (response.status_code, response.json()["parameter"]) == (422, "x-trace-id")
    assert client.post("/generate-lite", json={"prompt": "x", "trace_id": given}).status_code == 422


def test_a_request_leaves_one_line_without_what_was_asked(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="adapter_service"):
        client.post("/generate-lite", json={"prompt": "my secret", "adapter": "x", "trace_id": "t-3"})
    (line,) = [record for record in caplog.records if getattr(record, "action", "") == "request"]
    told = {name: getattr(line, name) for name in ("route", "status", "trace_id", "method")}
    assert told == {"route": "/generate-lite", "status": 404, "trace_id": "t-3", "method": "POST"}
    assert line.ms >= 0  # type: ignore[attr-defined]
    assert "my secret" not in caplog.text
