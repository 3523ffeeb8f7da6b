"""langchain-openai at the service: run with its own environment's Python, with the service's address."""

from __future__ import annotations

import sys
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

QUESTION = "What is the capital of France?"
WEATHER = "How is the weather in Paris?"


class City(BaseModel):
    """A city and its country."""

    name: str
    country: str


@tool  # type: ignore[untyped-decorator]  # not installed where types are checked
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


def chat(address: str, **options: Any) -> ChatOpenAI:
    given: dict[str, Any] = {"model": "base", "temperature": 0, "max_tokens": 64, "max_retries": 0, **options}
    return ChatOpenAI(base_url=f"{address}/v1", api_key=SecretStr("none is needed"), **given)


def answers(address: str) -> None:
    answer = chat(address).invoke(QUESTION)
    assert "Paris" in str(answer.content)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    pieces = list(chat(address, stream_usage=True).stream(QUESTION))
    assert len(pieces) > 2
    assert "".join(str(piece.content) for piece in pieces) == answer.content
    assert any(isinstance(piece, AIMessage) and piece.usage_metadata for piece in pieces)
    assert chat(address, model="taught").invoke(QUESTION).response_metadata["model_name"] == "taught@1"


def calls_tools(address: str) -> None:
    must = chat(address).bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    called = must.invoke(WEATHER)
    assert isinstance(called, AIMessage)
    (call,) = called.tool_calls
    assert (call["name"], list(call["args"])) == ("get_weather", ["city"])
    whole: Any = None
    for piece in must.stream(WEATHER):
        whole = piece if whole is None else whole + piece
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [("get_weather", call["args"])]
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"] or "")
    last = chat(address).bind_tools([get_weather]).invoke([HumanMessage(WEATHER), called, result])
    assert last.content or last.tool_calls


def keeps_to_a_form(address: str) -> None:
    for method in ("json_schema", "function_calling"):
        asked: Any = chat(address).with_structured_output(City, method=method)
        city = asked.invoke("Name a city and its country.")
        assert isinstance(city, City), method


def continues(address: str) -> None:
    model = OpenAI(
        base_url=f"{address}/v1", api_key=SecretStr("none is needed"), model="base", temperature=0, max_tokens=8
    )
    assert "Paris" in model.invoke("The capital of France is")


def is_refused(address: str) -> None:
    code = None
    try:
        chat(address, model="nobody").invoke(QUESTION)
    except openai.NotFoundError as error:
        code = error.code
    assert code == "model_not_found"


if __name__ == "__main__":
    for check in (answers, calls_tools, keeps_to_a_form, continues, is_refused):
        check(sys.argv[1])
