"""Answers that call tools or keep to a schema, as OpenAI's own client asks for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from pydantic import BaseModel

from tests.api.test_chat import ask, stream

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Pune", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
QUESTION: Any = [{"role": "user", "content": "How is Paris?"}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"enum": [1, 2]}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
ROOM = 100  # each token is a byte, and the tiny base takes 512


def only_call(message: ChatCompletionMessage) -> ChatCompletionMessageFunctionToolCall:
    (call,) = [call for call in message.tool_calls or () if call.type == "function"]
    return call


def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(tiny_openai: openai.OpenAI) -> None:
    choice = ask(
        tiny_openai, QUESTION, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False,
        max_completion_tokens=ROOM,
    ).choices[0]  # fmt: skip
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    call = only_call(choice.message)
    assert (call.function.name, call.id[:5]) == ("get_weather", "call_")
    assert json.loads(call.function.arguments)["city"] in {"Pune", "Paris"}


def test_a_tool_that_is_named_is_the_one(tiny_openai: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    choice = ask(
        tiny_openai, QUESTION, tools=[WEATHER, TIME], tool_choice=named, parallel_tool_calls=False,
        max_completion_tokens=40,
    ).choices[0]  # fmt: skip
    call = only_call(choice.message)
    assert (call.function.name, call.function.arguments) == ("get_time", "{}")


@pytest.mark.parametrize("parallel", [True, False])
def test_a_streamed_call_has_its_name_first_and_its_arguments_in_pieces(
    tiny_openai: openai.OpenAI, parallel: bool
) -> None:
    fields = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": parallel, "seed": 1, "n": 2}
    whole = ask(tiny_openai, QUESTION, max_completion_tokens=ROOM, **fields)
    chunks = stream(tiny_openai, QUESTION, max_completion_tokens=ROOM, **fields)
    for index in range(2):
        choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        pieces = [call for choice in choices for call in choice.delta.tool_calls or ()]
        first = pieces[0]
        assert first.function
        assert (first.index, first.type, first.function.name, first.function.arguments) == (
            0, "function", "get_weather", "",
        )  # fmt: skip
        assert all(piece.id is None for piece in pieces[1:] if piece.index == 0)
        calls = whole.choices[index].message.tool_calls or []
        found = [
            "".join(p.function.arguments or "" for p in pieces if p.function and p.index == place)
            for place in range(len(calls))
        ]
        assert found == [call.function.arguments for call in calls if call.type == "function"]
        assert choices[-1].finish_reason == whole.choices[index].finish_reason


def test_a_call_that_was_cut_off_says_so(tiny_openai: openai.OpenAI) -> None:
    fields = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    choice = ask(tiny_openai, QUESTION, max_completion_tokens=45, **fields).choices[0]
    call = only_call(choice.message)
    assert choice.finish_reason == "length"
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(call.function.arguments)


@pytest.mark.parametrize("streams", [False, True])
def test_a_text_to_stop_before_leaves_a_call_that_must_come_whole(tiny_openai: openai.OpenAI, streams: bool) -> None:
    fields: Any = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "stop": ["city"]}
    if streams:
        choices = [chunk.choices[0] for chunk in stream(tiny_openai, QUESTION, max_completion_tokens=ROOM, **fields)]
        calls = [call.function for choice in choices for call in choice.delta.tool_calls or () if call.function]
        reason, arguments = choices[-1].finish_reason, "".join(call.arguments or "" for call in calls)
    else:
        choice = ask(tiny_openai, QUESTION, max_completion_tokens=ROOM, **fields).choices[0]
        reason, arguments = choice.finish_reason, only_call(choice.message).function.arguments
    assert (reason, list(json.loads(arguments))) == ("tool_calls", ["city"])


@pytest.mark.model
def test_the_small_base_that_may_call_or_talk_talks(model_openai: openai.OpenAI) -> None:
    choice = ask(model_openai, QUESTION, tools=[WEATHER], temperature=0).choices[0]
    assert choice.message.tool_calls is None
    assert choice.message.content
    assert choice.finish_reason == "length"
    chunks = stream(model_openai, QUESTION, tools=[WEATHER], temperature=0)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == choice.message.content


def test_a_result_is_sent_back_with_its_call(tiny_openai: openai.OpenAI) -> None:
    fields: Any = {"tools": [WEATHER], "max_completion_tokens": ROOM}
    called = ask(tiny_openai, QUESTION, tool_choice="required", parallel_tool_calls=False, **fields).choices[0].message
    call = only_call(called)
    result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    assert ask(tiny_openai, [*QUESTION, called, result], tools=[]).choices[0].message.content is not None
    with pytest.raises(openai.BadRequestError, match="tool_call_id"):
        ask(tiny_openai, [*QUESTION, called, {**result, "tool_call_id": "another"}])


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_keeps_to_its_schema(tiny_openai: openai.OpenAI, streams: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "paint", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        fields = {"response_format": form, "seed": seed, "max_completion_tokens": ROOM}
        if streams:
            text = "".join(c.choices[0].delta.content or "" for c in stream(tiny_openai, **fields))
        else:
            text = ask(tiny_openai, **fields).choices[0].message.content or ""
        found = json.loads(text)
        assert (list(found), found["colour"] in {"red", "blue"}) == (["colour", "count"], True)


class Paint(BaseModel):
    colour: str
    count: int


@pytest.mark.model
def test_the_clients_own_parsing_gives_an_object(model_openai: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Which colour, and how many pots? Answer as JSON."}]
    parsed = model_openai.chat.completions.parse(
        model="base", messages=messages, response_format=Paint, temperature=0, max_completion_tokens=60
    )
    assert isinstance(parsed.choices[0].message.parsed, Paint)


def test_json_mode_gives_an_object(tiny_openai: openai.OpenAI) -> None:
    answer = ask(tiny_openai, response_format={"type": "json_object"}, seed=1, logit_bias={"94": 40})
    assert (answer.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}},
         "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "tools": [WEATHER]}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "launch"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_is_refused_by_its_field(
    tiny_openai: openai.OpenAI, fields: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(tiny_openai, **fields)
    assert refused.value.param == parameter
