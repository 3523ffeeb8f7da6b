"""LiteLLM at the service: run with its own environment's Python, with the service's address."""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "country": {"type": "string"}},
    "required": ["name", "country"],
    "additionalProperties": False,
}
# Both of LiteLLM's ways to such a service.
PROVIDERS = ("openai", "hosted_vllm")


def ask(address: str, provider: str, messages: Any = QUESTION, **fields: Any) -> Any:
    given = {"model": f"{provider}/base", "temperature": 0, "max_tokens": 64, "num_retries": 0, **fields}
    return litellm.completion(messages=messages, api_base=f"{address}/v1", api_key="none is needed", **given)


def answers(address: str, provider: str) -> None:
    answer = ask(address, provider)
    text = answer.choices[0].message.content
    assert "Paris" in text
    assert answer.usage.completion_tokens > 0
    chunks = list(ask(address, provider, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert any(getattr(chunk, "usage", None) for chunk in chunks)
    assert ask(address, provider, model=f"{provider}/taught").choices[0].message.content


def calls_tools(address: str, provider: str) -> None:
    given = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    message = ask(address, provider, WEATHER, **given).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    assert list(json.loads(call.function.arguments)) == ["city"]
    result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    last = ask(address, provider, [*WEATHER, message.model_dump(), result], tools=[TOOL]).choices[0].message
    assert last.content or last.tool_calls


def keeps_to_a_form(address: str, provider: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    messages = [{"role": "user", "content": "Name a city and its country."}]
    answer = ask(address, provider, messages, response_format=form)
    assert json.loads(answer.choices[0].message.content).keys() == {"name", "country"}


def is_refused(address: str, provider: str) -> None:
    said = ""
    try:
        ask(address, provider, model=f"{provider}/nobody")
    except litellm.NotFoundError as error:
        said = str(error)
    assert "unknown adapter 'nobody'" in said


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    for way in PROVIDERS:
        for check in (answers, calls_tools, keeps_to_a_form, is_refused):
            check(sys.argv[1], way)
