"""Conversations with a node's adapter: rendered as its samples were, dates resolved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from adapter_service.api.node_chats import NodeRouter, as_trained
from adapter_service.api.services import Services
from adapter_service.api.tool_calls import AnswerParts, CallPiece, ToolUse
from adapter_service.auth import KeyStore
from adapter_service.chat_rendering import conversation_ids
from adapter_service.commands.prompting import Context, prompt_of
from adapter_service.commands.router import Router
from adapter_service.commands.tools import tools_of
from adapter_service.conversation import Tool, Turn
from adapter_service.engine.generations import Generation
from adapter_service.engine.requests import Ask
from adapter_service.rendering import Renderer
from tests.api.conftest import MakeServices, QuickPipeline, client_of
from tests.api.hubs import alarm, body, hub_services, hub_settings, lights, settled, started
from tests.commands.making import read

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

ZONE = ZoneInfo("Europe/Berlin")
COMMANDS = read(lights(), alarm())
NODE = NodeRouter(Router(COMMANDS, holdout_fraction=0.2), ZONE)


def asked(text: str, *before: Turn) -> tuple[tuple[Turn, ...], ToolUse]:
    return as_trained((*before, Turn("user", text)), ToolUse(tools_of(COMMANDS), "auto"), text, NODE)


def test_the_prompt_of_a_conversation_is_that_of_a_sample(tiny_base: BaseModel) -> None:
    turns, _ = asked("Hall light on")
    now = datetime.now(UTC).astimezone(ZONE)
    renderer = Renderer(tiny_base.tokenizer)
    wanted = renderer.prompt_ids(prompt_of(COMMANDS, "Hall light on", Context(now)))
    assert conversation_ids(renderer, turns) == wanted


def test_what_the_clients_system_says_stays_before_it() -> None:
    turns, _ = asked("Hall light on", Turn("system", "Be brief."))
    assert turns[0].content.startswith("Be brief.\nFunctions:")


def test_dates_of_a_call_come_as_iso_8601() -> None:
    _, use = asked("Wake me")
    parts = AnswerParts(use)
    answer = json.dumps({"name": "set_alarm", "arguments": {"when": ["tomorrow", "at_7am"]}})
    found = [*parts.push(answer), *parts.finish()]
    (arguments,) = [json.loads(part.arguments) for part in found if isinstance(part, CallPiece) and part.arguments]
    (when,) = arguments["when"]
    assert datetime.fromisoformat(when).astimezone(ZONE).hour == 7


def forced(model: str, text: str, *tools: Tool) -> dict[str, Any]:
    """A request for a call."""
    functions = [{"name": tool.name, "parameters": dict(tool.parameters)} for tool in tools]
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_completion_tokens": 120,
        "temperature": 0,
    }


def test_a_forced_call_is_held_to_the_vocabulary_and_resolved(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    remind = alarm() | {"command_name": "remind", "parameters": [{"name": "when", "type": "datetime"}]}
    remind["examples"] = [
        {"voice_command": f"Remind me {text}", "expected_parameters": {"when": key}}
        for text, key in (("tonight", "tonight"), ("at nine", "at_9am"), ("in ten minutes", "in_10_minutes"))
    ]
    with started(hub_services(make_services, tiny_base)) as services:
        client = client_of(services)
        settled(client, client.post("/api/v0/adapters/train", json=body("kitchen", remind)).json()["job_id"])
        request = forced("node-kitchen", "Remind me tonight", *tools_of(read(remind)))
        message = client.post("/v1/chat/completions", json=request).json()["choices"][0]["message"]
        (call,) = message["tool_calls"]
        assert datetime.fromisoformat(json.loads(call["function"]["arguments"])["when"]).tzinfo is not None


@pytest.fixture
def untrained(make_services: MakeServices, tiny_base: BaseModel) -> Iterator[Services]:
    """The node has posted its commands, and no adapter comes of them."""
    services = make_services(lambda *_: QuickPipeline(), lambda note: tiny_base, commands=hub_settings())
    with started(services):
        client_of(services).post("/api/v0/adapters/train", json=body("kitchen", lights(), alarm()))
        yield services


def test_until_a_node_has_a_live_adapter_the_base_is_asked_as_the_node_and_the_answer_says_so(
    untrained: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks: list[Ask] = []
    engine, submit = untrained.engine, untrained.engine.submit

    def seen(ask: Ask) -> Generation:
        asks.append(ask)
        return submit(ask)

    monkeypatch.setattr(engine, "submit", seen)
    request = forced("node-kitchen", "Wake me", *tools_of(COMMANDS))
    answer = client_of(untrained).post("/v1/chat/completions", json=request)
    assert (answer.status_code, answer.json()["model"]) == (200, "base")
    assert asks[0].adapter is None
    prompt = engine.base.tokenizer.decode(asks[0].prompt_ids)
    assert prompt.index("Functions:") < prompt.index("set_alarm") < prompt.index("Wake me")


def test_a_nodes_key_may_ask_before_its_adapter_is_live_and_hears_of_no_other(untrained: Services) -> None:
    client = client_of(untrained)
    key = KeyStore(untrained.database).create("kitchen", {"node:kitchen"})[1]
    other = KeyStore(untrained.database).create("hall", {"node:hall"})[1]
    request = forced("node-kitchen", "Wake me", *tools_of(COMMANDS))
    answer = client.post("/v1/chat/completions", json=request, headers={"X-API-Key": key})
    assert (answer.status_code, answer.json()["model"]) == (200, "base")
    assert client.post("/v1/chat/completions", json=request, headers={"X-API-Key": other}).status_code == 404


@pytest.mark.parametrize("model", ["node-hall", "kitchen", "node-kitchen@1"])
def test_an_adapter_that_no_node_waits_for_is_unknown(untrained: Services, model: str) -> None:
    request = forced(model, "Wake me", *tools_of(COMMANDS))
    assert client_of(untrained).post("/v1/chat/completions", json=request).status_code == 404
