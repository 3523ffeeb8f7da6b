"""Conversations as OpenAI's own client asks for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
import requests

from adapter_service.api.services import Services
from tests.api.test_adapters_answer import trained

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob
    from openai.types.completion_usage import CompletionUsage

HELLO: Any = [{"role": "user", "content": "Hello"}]


def ask(client: openai.OpenAI, messages: Any = HELLO, **fields: Any) -> ChatCompletion:
    given = {"model": "base", "max_completion_tokens": 12, **fields}
    answer: ChatCompletion = client.chat.completions.create(messages=messages, **given)
    return answer


def stream(client: openai.OpenAI, messages: Any = HELLO, **fields: Any) -> list[ChatCompletionChunk]:
    given = {"model": "base", "max_completion_tokens": 12, **fields}
    return list(client.chat.completions.create(messages=messages, stream=True, **given))


def used(answer: ChatCompletion) -> CompletionUsage:
    assert answer.usage is not None
    return answer.usage


def logprobs_of(answer: ChatCompletion) -> list[ChatCompletionTokenLogprob]:
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    return found.content


def texts(chunks: list[ChatCompletionChunk]) -> dict[int, str]:
    found: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        found[choice.index] = found.get(choice.index, "") + (choice.delta.content or "")
    return found


@pytest.mark.model
def test_the_small_base_answers_a_conversation(model_openai: openai.OpenAI) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    answer = ask(model_openai, messages, temperature=0, max_completion_tokens=20)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == ("chat.completion", "base", "stop")
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint


def test_usage_counts_a_prompt_once_and_every_answer(tiny_openai: openai.OpenAI) -> None:
    one = used(ask(tiny_openai, seed=1, extra_body={"min_tokens": 12}))
    three = used(ask(tiny_openai, seed=1, n=3, extra_body={"min_tokens": 12}))
    assert (one.prompt_tokens, one.completion_tokens) == (7, 12)  # a begin token, five letters, a line break
    assert (three.prompt_tokens, three.completion_tokens, three.total_tokens) == (7, 36, 43)
    assert three.prompt_tokens_details is not None


def test_a_stream_has_the_text_of_the_answer_at_once(tiny_openai: openai.OpenAI) -> None:
    whole = ask(tiny_openai, seed=5, n=2)
    assert texts(stream(tiny_openai, seed=5, n=2)) == {c.index: c.message.content for c in whole.choices}


def test_answers_to_one_prompt_differ_and_the_second_has_the_next_seed(tiny_openai: openai.OpenAI) -> None:
    first, second = (choice.message.content for choice in ask(tiny_openai, seed=5, n=2).choices)
    assert first != second == ask(tiny_openai, seed=6).choices[0].message.content


def test_a_temperature_of_0_is_greedy_and_none_at_all_is_1(tiny_openai: openai.OpenAI) -> None:
    assert len({ask(tiny_openai, temperature=0, seed=seed).choices[0].message.content for seed in range(3)}) == 1
    assert len({ask(tiny_openai, seed=seed).choices[0].message.content for seed in range(3)}) == 3


def test_a_stop_text_ends_the_answer_and_is_not_in_it(tiny_openai: openai.OpenAI) -> None:
    whole = ask(tiny_openai, seed=5, max_completion_tokens=40).choices[0].message.content or ""
    cut = ask(tiny_openai, seed=5, max_completion_tokens=40, stop=[whole[5:7], "never seen"]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(whole[5:7])], "stop")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_are_known(tiny_openai: openai.OpenAI, name: str) -> None:
    fields = {"max_completion_tokens": None, name: 3, "extra_body": {"min_tokens": 3}}
    answer = ask(tiny_openai, **fields)
    assert used(answer).completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_without_a_limit_the_context_is_one(tiny_openai: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "x" * 490}]
    answer = ask(tiny_openai, long, max_completion_tokens=None, extra_body={"min_tokens": 10})
    assert used(answer).prompt_tokens == 492
    assert used(answer).total_tokens <= 512


def test_every_token_comes_with_its_logprob_and_bytes(tiny_openai: openai.OpenAI) -> None:
    answer = ask(tiny_openai, seed=3, logprobs=True, extra_body={"min_tokens": 12})
    tokens = logprobs_of(answer)
    assert len(tokens) == used(answer).completion_tokens
    said = bytes(byte for token in tokens for byte in token.bytes or ()).decode(errors="replace")
    assert said == answer.choices[0].message.content
    assert all(token.logprob <= 0 for token in tokens)


def test_the_likeliest_tokens_stand_beside_each(tiny_openai: openai.OpenAI) -> None:
    for token in logprobs_of(ask(tiny_openai, temperature=0, logprobs=True, top_logprobs=3)):
        assert [best.logprob for best in token.top_logprobs] == sorted(b.logprob for b in token.top_logprobs)[::-1]
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token


def test_a_bias_of_100_leaves_one_token_to_say(tiny_openai: openai.OpenAI, tiny_services: Services) -> None:
    (letter,) = tiny_services.engine.base.tokenizer("x", add_special_tokens=False)["input_ids"]
    answer = ask(tiny_openai, logit_bias={str(letter): 100}, extra_body={"min_tokens": 12})
    assert answer.choices[0].message.content == "x" * 12


def test_logprobs_of_a_stream_are_those_of_the_answer_at_once(tiny_openai: openai.OpenAI) -> None:
    fields = {"seed": 3, "logprobs": True}
    whole = logprobs_of(ask(tiny_openai, **fields))
    streamed = [
        token
        for chunk in stream(tiny_openai, **fields)
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else None) or ()
    ]
    assert streamed == whole


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": 100_000}, "max_completion_tokens"),
        ({"logit_bias": {"70000": 1}}, "logit_bias"),
        ({"extra_body": {"stop_token_ids": [70_000]}}, "stop_token_ids"),
        ({"extra_body": {"lora_scale": 0.5}}, "lora_scale"),
        ({"extra_body": {"min_tokens": 13}}, "min_tokens"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, "messages[0].tool_call_id"),
    ],
)
def test_what_cannot_be_is_a_bad_request_that_names_its_field(
    tiny_openai: openai.OpenAI, fields: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(tiny_openai, **fields)
    assert refused.value.param == parameter
    assert refused.value.type == "invalid_request_error"
    assert refused.value.request_id


def test_a_picture_is_refused_for_what_it_is(tiny_openai: openai.OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    with pytest.raises(openai.BadRequestError, match="a part of type 'image_url'; this base reads text alone"):
        ask(tiny_openai, [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}])


def test_what_has_no_effect_is_taken_by_name(tiny_openai: openai.OpenAI) -> None:
    answer = ask(
        tiny_openai, user="u", metadata={"a": "b"}, store=False, service_tier="auto", reasoning_effort="low",
        verbosity="low", prompt_cache_key="k", safety_identifier="s", seed=5,
    )  # fmt: skip
    assert answer.choices[0].message.content == ask(tiny_openai, seed=5).choices[0].message.content


def test_an_earlier_answer_can_be_sent_back_as_it_came(tiny_openai: openai.OpenAI) -> None:
    earlier = ask(tiny_openai).choices[0].message
    again = ask(tiny_openai, [*HELLO, earlier, {"role": "user", "content": "And now?"}])
    assert again.choices[0].message.content is not None


@pytest.fixture(scope="module")
def adapter(tiny_services: Services, tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tiny_services, tmp_path_factory.mktemp("adapter"), "spoken-to", "c").reference


def test_an_adapter_answers_by_name_and_by_version(tiny_openai: openai.OpenAI, adapter: str) -> None:
    by_name, by_version, base = (ask(tiny_openai, model=model, seed=4) for model in ("spoken-to", adapter, "base"))
    assert by_name.model == by_version.model == adapter
    assert by_name.choices[0].message.content == by_version.choices[0].message.content
    assert by_name.choices[0].message.content != base.choices[0].message.content


def test_greedily_an_adapter_says_what_it_says_to_generate_lite(
    tiny_openai: openai.OpenAI, tiny_address: str, adapter: str
) -> None:
    prompt = "Translate to Hindi: Water"
    body = {"prompt": prompt, "adapter": adapter, "max_new_tokens": 12}
    lite = requests.post(f"{tiny_address}/generate-lite", json=body, timeout=60).json()
    messages = [{"role": "user", "content": prompt}]
    answer = ask(tiny_openai, messages, model=adapter, temperature=0)
    assert answer.choices[0].message.content == lite["text"]
    bare = {"repetition_penalty": 1.0, "foreign_script_penalty": 0.0}
    assert ask(tiny_openai, messages, model=adapter, temperature=0, extra_body=bare) != answer


@pytest.mark.model
def test_a_stream_is_what_the_specification_says_to_the_letter(model_address: str) -> None:
    body = {
        "model": "base", "messages": HELLO, "temperature": 0, "max_tokens": 3, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    answer = requests.post(f"{model_address}/v1/chat/completions", json=body, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"] == answer.headers["x-trace-id"]
    *events, done, end = answer.content.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") for event in events)
    first, *pieces, last, usage = (json.loads(event.removeprefix("data: ")) for event in events)
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * len(pieces)
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert all(chunk["usage"] is None for chunk in (first, *pieces, last))
    heads = {(chunk["id"], chunk["created"], chunk["object"]) for chunk in (first, *pieces, last, usage)}
    assert [kind for _, _, kind in heads] == ["chat.completion.chunk"]


def test_without_being_asked_for_there_is_no_usage_in_a_stream(tiny_openai: openai.OpenAI) -> None:
    chunks = stream(tiny_openai)
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)
