"""Answers held to a regex, to choices or to a schema by vLLM's field, as OpenAI's own client sends it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import openai
import pytest
import requests

from tests.api.test_chat import HELLO, ask, stream, texts
from tests.api.test_chat_forms import SCHEMA, WEATHER
from tests.api.test_completions import ask as complete
from tests.api.test_completions import streamed

if TYPE_CHECKING:
    from collections.abc import Callable

DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
CHOICES = ["good", "bad", "a+b?", "सुप्रभात"]
BOMB = "((a{1000}){1000}){1000}"
ROOM = 100  # each token is a byte, and the tiny base takes 512
Written = list[tuple[str, str | None]]


def form(**forms: Any) -> dict[str, Any]:
    return {"extra_body": {"structured_outputs": forms}}


def chat(client: openai.OpenAI, **fields: Any) -> Written:
    choices = ask(client, n=3, max_completion_tokens=ROOM, **fields).choices
    return [(choice.message.content or "", choice.finish_reason) for choice in choices]


def chat_stream(client: openai.OpenAI, **fields: Any) -> Written:
    chunks = stream(client, n=3, max_completion_tokens=ROOM, **fields)
    ends = {choice.index: choice.finish_reason for chunk in chunks for choice in chunk.choices}
    return [(text, ends[index]) for index, text in texts(chunks).items()]


def completion(client: openai.OpenAI, **fields: Any) -> Written:
    choices = complete(client, n=3, max_tokens=ROOM, **fields).choices
    return [(choice.text, choice.finish_reason) for choice in choices]


def completion_stream(client: openai.OpenAI, **fields: Any) -> Written:
    return [(text, None) for text in streamed(client, "Hello", n=3, max_tokens=ROOM, **fields).values()]


WAYS = pytest.mark.parametrize("way", [chat, chat_stream, completion, completion_stream])


@WAYS
@pytest.mark.parametrize("pattern", [DATE, "(yes|no)( please)?", "[ऀ-ॿ]{1,4}", "[ab]{40,60}"])
def test_an_answer_matches_its_regex(tiny_openai: openai.OpenAI, way: Callable[..., Written], pattern: str) -> None:
    for text, _ in (found := way(tiny_openai, seed=1, **form(regex=pattern))):
        assert re.fullmatch(pattern, text)
    assert len(found) == 3
    assert {reason for _, reason in found} <= {"stop", None}


@WAYS
def test_an_answer_is_one_of_its_choices(tiny_openai: openai.OpenAI, way: Callable[..., Written]) -> None:
    assert {text for text, _ in way(tiny_openai, seed=3, **form(choice=CHOICES))} <= set(CHOICES)


@WAYS
def test_an_answer_keeps_to_its_schema(tiny_openai: openai.OpenAI, way: Callable[..., Written]) -> None:
    for text, _ in way(tiny_openai, seed=1, **form(json=SCHEMA)):
        assert list(json.loads(text)) == ["colour", "count"]


def test_an_answer_that_is_cut_off_is_a_beginning_and_says_so(tiny_openai: openai.OpenAI) -> None:
    choice = ask(tiny_openai, max_completion_tokens=5, **form(regex=DATE)).choices[0]
    assert choice.finish_reason == "length"
    assert re.fullmatch("[0-9]{4}-", choice.message.content or "")


def test_the_prompt_that_is_echoed_is_no_part_of_the_form(tiny_openai: openai.OpenAI) -> None:
    choice = complete(tiny_openai, "On ", echo=True, max_tokens=ROOM, **form(regex=DATE)).choices[0]
    assert re.fullmatch(f"On {DATE}", choice.text)


def test_a_form_goes_together_with_tools_that_may_not_be_called(tiny_openai: openai.OpenAI) -> None:
    fields = {"tools": [WEATHER], "tool_choice": "none", "max_completion_tokens": ROOM}
    assert ask(tiny_openai, **fields, **form(choice=["a"])).choices[0].message.content == "a"


@pytest.mark.parametrize(
    ("forms", "parameter", "reason"),
    [
        ({"regex": BOMB}, "structured_outputs.regex", "too many expressions"),
        ({"regex": "(?=a)b" * 1000}, "structured_outputs.regex", "look-around"),
        ({"regex": r"(a)\1"}, "structured_outputs.regex", "backreferences"),
        ({"regex": "(" * 4000 + ")" * 4000}, "structured_outputs.regex", "nested"),
        ({"regex": "a" * 10_001}, "structured_outputs.regex", "at most 10000"),
        ({"regex": ""}, "structured_outputs.regex", "at least 1"),
        ({"choice": []}, "structured_outputs.choice", "at least 1"),
        ({"choice": ["a", 5]}, "structured_outputs.choice[1]", "a text is wanted"),
        ({"choice": ["a" * 1001]}, "structured_outputs.choice[0]", "at most 1000"),
        ({"json": {"type": 5}}, "structured_outputs.json", "type"),
        ({"regex": "a", "choice": ["a"]}, "structured_outputs", "regex and choice; give exactly one"),
        ({}, "structured_outputs", "no form; give exactly one"),
        ({"grammar": "root ::= 'a'"}, "structured_outputs", "dialect"),
        ({"whitespace_pattern": " ", "regex": "a"}, "structured_outputs.whitespace_pattern", "whitespace_pattern"),
    ],
)
@pytest.mark.parametrize("way", [chat, completion_stream])
def test_a_form_that_cannot_be_followed_is_refused_briefly(
    tiny_openai: openai.OpenAI, way: Callable[..., Written], forms: dict[str, Any], parameter: str, reason: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        way(tiny_openai, **form(**forms))
    assert refused.value.param == parameter
    assert reason in refused.value.message
    assert len(refused.value.message) < 700


def test_half_a_character_is_refused(tiny_address: str) -> None:
    body = r'{"model": "base", "prompt": "x", "structured_outputs": {"choice": ["a\ud800"]}}'
    headers = {"Content-Type": "application/json"}
    answer = requests.post(f"{tiny_address}/v1/completions", data=body, headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "structured_outputs.choice[0]")


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"response_format": {"type": "json_object"}}, "structured_outputs"),
        ({"tools": [WEATHER]}, "structured_outputs"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "structured_outputs"),
    ],
)
def test_a_form_beside_another_is_refused(tiny_openai: openai.OpenAI, fields: dict[str, Any], parameter: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(tiny_openai, HELLO, **fields, **form(regex="a"))
    assert refused.value.param == parameter
