"""Half of a surrogate pair, which JSON can write and UTF-8 cannot: refused in whatever text of a body it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from tests.api.conftest import client_of

HALF = "a\ud800b"
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "Hello"}]}
CHAT_PATH = "/v1/chat/completions"


def send(client: TestClient, path: str, body: dict[str, Any]) -> Any:
    """As ASCII alone, which is how JSON can say it."""
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def tool(**function: Any) -> dict[str, Any]:
    return CHAT | {"tools": [{"type": "function", "function": {"name": "look", **function}}]}


def called(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return CHAT | {"messages": [*CHAT["messages"], {"role": "assistant", "tool_calls": [call]}]}


@pytest.mark.parametrize(
    ("path", "body", "parameter"),
    [
        (CHAT_PATH, CHAT | {"messages": [{"role": "user", "content": HALF}]}, "messages[0].content"),
        (CHAT_PATH, CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
         "messages[0].content[0].text"),
        (CHAT_PATH, CHAT | {"stop": ["x", HALF]}, "stop[1]"),
        (CHAT_PATH, tool(description=HALF), "tools[0].function.description"),
        (CHAT_PATH, tool(parameters={"properties": {"a": {"enum": ["x", HALF]}}}),
         "tools[0].function.parameters.properties.a.enum[1]"),
        (CHAT_PATH, tool(parameters={"properties": {HALF: {}}}), "tools[0].function.parameters.properties"),
        (CHAT_PATH, called('{"a": "\\ud800"}'), "messages[1].tool_calls[0].function.arguments"),
        ("/v1/completions", {"model": "base", "prompt": HALF}, "prompt"),
        ("/v1/completions", {"model": "base", "prompt": ["x", HALF]}, "prompt[1]"),
    ],
)  # fmt: skip
def test_half_a_character_is_refused_where_it_stands(
    client: TestClient, path: str, body: dict[str, Any], parameter: str
) -> None:
    answer = send(client, path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, parameter, "invalid_parameter")
    assert "half a character (\\ud800 without its other half); send both halves, or take it out" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "parameter"),
    [
        ("/tokenize", {"text": HALF}, "text"),
        ("/generate-lite", {"prompt": HALF}, "prompt"),
        ("/adapter/train-lite", {"source": HALF}, "source"),
        ("/rl/collect", {"episodes": [{"prompt": "x", "output": "y", "meta": {"a": [HALF]}}]}, "episodes[0].meta.a[0]"),
    ],
)
def test_the_older_routes_say_it_in_their_own_shape(
    client: TestClient, path: str, body: dict[str, Any], parameter: str
) -> None:
    answer = send(client, path, body)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["parameter"]) == (422, "invalid_parameter", parameter)
    assert f"'{parameter}' has half a character" in problem["detail"]


def test_no_route_takes_one(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    paths = [
        path
        for path, operations in document["paths"].items()
        if "application/json" in operations.get("post", {}).get("requestBody", {}).get("content", {})
    ]
    assert len(paths) >= 9
    for path in paths:
        told = send(client, path, {"x": HALF}).text
        assert "'x' has half a character" in told or '"path":"x"' in told, path
        assert "half a character" in told, path


def test_both_halves_are_a_character(tiny_services: Services) -> None:
    answer = send(client_of(tiny_services), "/tokenize", {"text": "😀"})
    assert (answer.status_code, answer.json()["count"]) == (200, 5)
