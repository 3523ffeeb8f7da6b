"""What is told of a field that cannot be: the fault that its sender made, in this service's own words."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from tests.api.conftest import client_of

CHAT: tuple[str, dict[str, Any]] = (
    "/v1/chat/completions",
    {"model": "base", "messages": [{"role": "user", "content": "Hello"}]},
)
TEXT: tuple[str, dict[str, Any]] = ("/v1/completions", {"model": "base", "prompt": "Hello"})
JOB: tuple[str, dict[str, Any]] = ("/v1/fine_tuning/jobs", {"model": "base", "training_file": "source:small"})
MANY = ["x"] * 17
OBJECT = "an object is wanted: write { } with its fields"


@pytest.mark.parametrize(
    ("route", "fields", "told"),
    [
        (CHAT, {"stop": MANY}, f"'stop' is {str(MANY)[:80]}…; at most 16 members are allowed: take the others out"),
        (CHAT, {"stop": 5}, "'stop' is 5; a text is wanted: put it in quotes"),
        (CHAT, {"stop": ["x", 5]}, "'stop[1]' is 5; a text is wanted: put it in quotes"),
        (TEXT, {"prompt": []}, "'prompt' is []; at least 1 member is wanted: add it"),
        (TEXT, {"prompt": [[]]}, "'prompt[0]' is []; at least 1 member is wanted: add it"),
        (TEXT, {"prompt": [-1]}, "'prompt[0]' is -1; it should be greater than or equal to 0"),
        (TEXT, {"prompt": [1, "a"]}, "'prompt[1]' is 'a'; a whole number is wanted: write it without quotes"),
        (TEXT, {"prompt": ["a", 1]}, "'prompt[1]' is 1; a text is wanted: put it in quotes"),
        (TEXT, {"prompt": [[1], ["a"]]}, "'prompt[1][0]' is 'a'; a whole number is wanted: write it without quotes"),
        (JOB, {"hyperparameters": {"n_epochs": 0}},
         "'hyperparameters.n_epochs' is 0; it should be greater than or equal to 1"),
        (JOB, {"hyperparameters": {"n_epochs": 1.5}},
         "'hyperparameters.n_epochs' is 1.5; a whole number is wanted: write it without a fraction"),
        (JOB, {"hyperparameters": {"n_epochs": "many"}}, "'hyperparameters.n_epochs' is 'many'; it should be 'auto'"),
        (JOB, {"hyperparameters": {"learning_rate_multiplier": 2000}},
         "'hyperparameters.learning_rate_multiplier' is 2000; it should be less than or equal to 1000"),
        (JOB, {"hyperparameters": 5}, f"'hyperparameters' is 5; {OBJECT}"),
        (JOB, {"integrations": [1]}, "'integrations' is [1]; at most 0 members are allowed: take the others out"),
        (CHAT, {"messages": []}, "'messages' is []; at least 1 member is wanted: add it"),
        (CHAT, {"messages": ["hi", "ho"]}, f"'messages[0]' is 'hi'; {OBJECT}"),
        (CHAT, {"messages": [{"role": "user", "content": ["hi"]}]}, f"'messages[0].content[0]' is 'hi'; {OBJECT}"),
        (CHAT, {"logit_bias": {"abc": 1}},
         "'logit_bias.abc' is 'abc'; a token's id is wanted, which is digits alone: POST /tokenize says it"),
        (CHAT, {"logit_bias": [1]}, f"'logit_bias' is [1]; {OBJECT}"),
        (CHAT, {"response_format": {"type": "regex"}},
         "'response_format' is {'type': 'regex'}; its 'type' may be 'text', 'json_object', 'json_schema': write one"),
        (CHAT, {"response_format": {}}, "'response_format' is {}; its 'type' is missing: add it"),
        (CHAT, {"response_format": "text"}, f"'response_format' is 'text'; {OBJECT}"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "'response_format.json_schema' is missing; add it"),
        (CHAT, {"tool_choice": {"type": "function"}}, "'tool_choice.function' is missing; add it"),
        (CHAT, {"tool_choice": "maybe"}, "'tool_choice' is 'maybe'; it should be 'none', 'auto' or 'required'"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]},
         "'tools[0].function.name' is 'a b'; 1 to 64 of a-z, A-Z, 0-9, '_' and '-' are wanted: rename it"),
        (CHAT, {"seed": 1.5}, "'seed' is 1.5; a whole number is wanted: write it without a fraction"),
    ],
)  # fmt: skip
def test_the_fault_that_was_made_is_told(
    client: TestClient, route: tuple[str, dict[str, Any]], fields: dict[str, Any], told: str
) -> None:
    path, body = route
    answer = client.post(path, json=body | fields)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, told)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "text"}, "a part of type 'text' has no 'text'; add it"),
        ({"type": "refusal"}, "a part of type 'refusal' has no 'refusal'; add it"),
        ({"type": "text", "refusal": "x"}, "a part of type 'text' has no 'text'; add it"),
        ({"type": "text", "text": "x", "refusal": "y"},
         "a part of type 'text' has 'refusal' too; leave that out, or send a part of it"),
    ],
)  # fmt: skip
def test_a_part_has_what_its_type_says(client: TestClient, part: dict[str, str], told: str) -> None:
    path, body = CHAT
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, part]}]
    answer = client.post(path, json=body | {"messages": messages})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages[0].content[1]")
    assert error["message"].endswith(f"; {told}")


def test_a_list_that_is_wrong_throughout_is_told_once(client: TestClient) -> None:
    problem = client.post("/detokenize", json={"ids": ["a"] * 1000}).json()
    assert problem["detail"] == "'ids[0]' is 'a'; a whole number is wanted: write it without quotes"


@pytest.mark.parametrize("count", [9, 17, 10**12])
def test_more_answers_than_may_grow_are_told_the_setting(tiny_services: Services, count: int) -> None:
    for route, field in ((CHAT, "n"), (TEXT, "n"), (TEXT, "best_of")):
        answer = client_of(tiny_services).post(route[0], json={**route[1], field: count})
        assert answer.status_code == 400
        assert "(serving.max_active_requests): ask for 1 to 8" in answer.json()["error"]["message"]
