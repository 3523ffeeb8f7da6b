"""Generation requests while the base loads: everything that can be said without it."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.generation_requests import sampling_for
from adapter_service.api.schemas.generation import GenerateBody
from adapter_service.languages import find
from adapter_service.settings import ServingSettings
from tests.conftest import SMALL_BASE


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/generate-lite", json={"prompt": "Hello", **body})


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"lang": "Klingon"}, "lang"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 513}, "max_new_tokens"),
        ({"max_new_tokens": "5"}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"max_new_tokens": 5, "min_new_tokens": 6}, "min_new_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"lora_scale": -0.1}, "lora_scale"),
        ({"lora_scale": 10.5}, "lora_scale"),
        ({"lora_scale": 1.0}, "lora_scale"),  # of the base
        ({"adapter": "none", "lora_scale": 0.5}, "lora_scale"),
        ({"eos_token_id": -2}, "eos_token_id"),
        ({"adapter_path": "outputs/gurukul_lite"}, "adapter_path"),
        ({"adapter": "a", "adapter_path": "b"}, "adapter_path"),
        ({"base_model": "gpt2"}, "base_model"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_an_impossible_request_is_refused_by_its_field(
    client: TestClient, body: dict[str, Any], parameter: str
) -> None:
    problem = ask(client, **{"adapter": "base", **body}).json()
    assert (problem["status"], problem["parameter"]) == (422, parameter)


def test_a_misspelt_field_is_refused_with_a_guess(client: TestClient) -> None:
    problem = client.post("/generate-lite", json={"promt": "Hello"}).json()
    assert "unknown field 'promt'; did you mean 'prompt'?" in problem["detail"]
    assert "'prompt' is missing" in problem["detail"]


def test_an_unknown_adapter_is_404_and_never_answered_by_the_base(client: TestClient) -> None:
    for body in ({"adapter": "nobody"}, {"adapter": "nobody@3"}, {"adapter_path": "nobody"}):
        assert ask(client, **body).json()["code"] == "unknown_adapter"


def test_a_default_adapter_that_is_not_trained_yet_says_what_to_do(client: TestClient) -> None:
    problem = ask(client).json()
    assert (problem["status"], problem["code"]) == (404, "unknown_adapter")
    assert "POST /adapter/train-lite" in problem["detail"]
    assert '"adapter": "base"' in problem["detail"]


@pytest.mark.parametrize("body", [{"adapter": "base"}, {"adapter": "none"}, {"adapter_path": "none"}])
def test_the_base_alone_is_not_ready_while_it_loads(client: TestClient, body: dict[str, str]) -> None:
    response = ask(client, base_model=SMALL_BASE, **body)
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert "Retry-After" in response.headers


def test_tokens_wait_for_the_base_too(client: TestClient) -> None:
    assert client.post("/tokenize", json={"text": "x"}).status_code == 503
    assert client.post("/detokenize", json={"ids": [1]}).status_code == 503


@pytest.mark.parametrize(
    ("body", "samples"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"top_k": 50}, True),
        ({"temperature": 0, "top_p": 0.9}, False),
        ({"do_sample": False, "temperature": 0.7}, False),
        ({"do_sample": True}, True),
    ],
)
def test_decoding_is_greedy_unless_asked_otherwise(body: dict[str, Any], samples: bool) -> None:
    assert sampling_for(GenerateBody(prompt="x", **body), ServingSettings(), None).do_sample is samples


def test_defaults_are_those_of_the_settings() -> None:
    serving = ServingSettings(default_max_new_tokens=7, repetition_penalty=1.5, foreign_script_penalty=3.0)
    sampling = sampling_for(GenerateBody(prompt="x"), serving, find("hi"))
    assert (sampling.max_new_tokens, sampling.repetition_penalty, sampling.stop) == (7, 1.5, ())
    assert (sampling.script, sampling.foreign_script_penalty) == ("Deva", 3.0)
    assert sampling_for(GenerateBody(prompt="x"), serving, None).script is None


def test_every_parameter_of_the_body_reaches_the_engine() -> None:
    body = GenerateBody(
        prompt="x", max_new_tokens=9, min_new_tokens=2, temperature=0.5, top_p=0.8, top_k=3,
        repetition_penalty=1.1, foreign_script_penalty=0, seed=4, stop="\n", eos_token_id=[5, 6],
    )  # fmt: skip
    sampling = sampling_for(body, ServingSettings(), None)
    assert (sampling.max_new_tokens, sampling.min_new_tokens, sampling.seed) == (9, 2, 4)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.8, 3)
    assert (sampling.repetition_penalty, sampling.stop) == (1.1, ("\n",))
    assert sampling.foreign_script_penalty == 0.0
    assert sampling.extra_eos_ids == {5, 6}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": ""}, "'prompt' is ''; at least 1 character is wanted: write it"),
        ({"prompt": None}, "'prompt' is null; a text is wanted: put it in quotes"),
        ({"max_new_tokens": "5"}, "'max_new_tokens' is '5'; a whole number is wanted: write it without quotes"),
        ({"stream": "yes"}, "'stream' is 'yes'; true or false is wanted: write one of them without quotes"),
        (
            {"trace_id": "schön"},
            "'trace_id' is 'schön'; 1 to 128 printable ASCII characters are wanted, no blank at either end: change it",
        ),
    ],
)
def test_a_refusal_says_what_is_wanted_and_what_to_do(client: TestClient, body: dict[str, Any], message: str) -> None:
    assert ask(client, **body).json()["detail"] == message
