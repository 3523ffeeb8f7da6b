"""Errors under /v1, as OpenAI's own client takes them: which class, and whether it tries again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.engine.generations import Generation
from adapter_service.engine.requests import Ask, Sampling
from adapter_service.engine.turn import Turn
from tests.api.conftest import client_of, openai_client
from tests.api.test_adapters_answer import trained

HELLO: Any = [{"role": "user", "content": "Hello"}]


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "base", "messages": HELLO, "max_tokens": 4, **fields})


class Queue:
    """The engine has long work in hand, and as many requests as may wait wait behind it."""

    def __init__(self, services: Services) -> None:
        self._go_on, self._begun = threading.Event(), threading.Event()
        self._worker = threading.Thread(target=services.engine.run, args=[self._work])
        self._worker.start()
        assert self._begun.wait(60)
        asks = [Ask([5], Sampling(max_new_tokens=1)) for _ in range(services.settings.serving.queue_size)]
        self._waiting: list[Generation] = [services.engine.submit(ask) for ask in asks]

    def _work(self, turn: Turn) -> None:
        self._begun.set()
        self._go_on.wait(60)

    def empty(self) -> None:
        self._go_on.set()
        self._worker.join(60)
        for generation in self._waiting:
            generation.result(60)


@pytest.fixture
def full_queue(tiny_services: Services) -> Iterator[Queue]:
    queue = Queue(tiny_services)
    yield queue
    queue.empty()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], list[float]]:
    """In place of the client's sleep between two tries: what it is told to do meanwhile, and how long it would."""

    def instead(meanwhile: Callable[[], None] = lambda: None) -> list[float]:
        seconds: list[float] = []

        def sleep(wanted: float) -> None:
            seconds.append(wanted)
            meanwhile()

        monkeypatch.setattr(time, "sleep", sleep)
        return seconds

    return instead


def test_a_full_queue_is_a_rate_limit_that_says_when_to_come_back(
    tiny_openai: openai.OpenAI, full_queue: Queue
) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        ask(tiny_openai)
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 5


def test_the_client_comes_back_by_itself_and_is_answered(
    tiny_address: str, full_queue: Queue, naps: Callable[..., list[float]]
) -> None:
    seconds = naps(full_queue.empty)
    with openai_client(tiny_address).with_options(max_retries=2) as client:
        assert ask(client).choices
    assert seconds == [5.0]


def test_of_several_prompts_none_is_left_in_the_queue_when_one_finds_no_place(
    tiny_openai: openai.OpenAI, tiny_services: Services
) -> None:
    queue = Queue(tiny_services)
    queue._waiting[0].cancel()
    with pytest.raises(openai.RateLimitError):
        tiny_openai.completions.create(model="base", prompt=["a", "b"])
    assert tiny_services.engine.waiting == tiny_services.settings.serving.queue_size - 1
    queue.empty()


def test_a_conflict_that_lasts_is_not_tried_again(
    tiny_address: str,
    tiny_services: Services,
    tmp_path_factory: pytest.TempPathFactory,
    naps: Callable[..., list[float]],
) -> None:
    trained(tiny_services, tmp_path_factory.mktemp("foreign"), "foreign", "1", base_id="another")
    seconds = naps()
    with (
        openai_client(tiny_address).with_options(max_retries=2) as client,
        pytest.raises(openai.ConflictError) as refused,
    ):
        ask(client, model="foreign")
    assert refused.value.code == "conflict"
    assert seconds == []


@pytest.mark.parametrize("code", ["adapter_format", "adapter_too_large"])
def test_an_adapter_that_cannot_be_served_is_named_and_not_asked_for_again(
    tiny_address: str,
    tiny_services: Services,
    tmp_path_factory: pytest.TempPathFactory,
    naps: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    name = code.replace("_", "-")
    version = trained(tiny_services, tmp_path_factory.mktemp(name), name, "2" if code == "adapter_format" else "3")
    if code == "adapter_format":
        (version.path / "adapter_config.json").write_text("{}")
    else:
        monkeypatch.setattr(tiny_services.engine._residency, "max_bytes", 1)
    seconds = naps()
    with (
        openai_client(tiny_address).with_options(max_retries=2) as client,
        pytest.raises(openai.InternalServerError, match=f"{name}@1: ") as refused,
    ):
        ask(client, model=name)
    assert (refused.value.code, seconds) == (code, [])


@pytest.mark.parametrize("max_tokens", [4, None])
def test_a_conversation_that_is_too_long_has_openais_code(tiny_openai: openai.OpenAI, max_tokens: int | None) -> None:
    with pytest.raises(openai.BadRequestError, match="takes 512 in all: shorten the prompt") as refused:
        ask(tiny_openai, messages=[{"role": "user", "content": "x" * 600}], max_tokens=max_tokens)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", 400, "invalid_parameter"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
    ],
)
def test_whatever_is_refused_has_the_shape(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], bool(error["message"])) == (code, True)
    assert answer.headers["x-request-id"]


def test_a_base_that_loads_is_to_be_asked_again_soon(client: TestClient) -> None:
    answer = client.post("/v1/chat/completions", json={"model": "base", "messages": HELLO})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) <= 5


def test_a_stranger_and_a_body_that_is_too_large_are_told_in_the_shape_too(services: Services) -> None:
    stranger = client_of(services, peer="203.0.113.9").get("/v1/models")
    assert (stranger.status_code, stranger.json()["error"]["type"]) == (401, "authentication_error")
    large = client_of(services).post("/v1/completions", content=b" " * 1_100_000)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")


def test_something_unexpected_is_an_error_of_the_server_without_its_reason(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(type(services.versions), "list", broken)
    answer = client_of(services).get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text


@pytest.fixture
def broken_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer fails at its first token for a reason that nobody foresaw."""

    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("adapter_service.engine.answer.Answer.take", broken)


@pytest.mark.usefixtures("broken_answers")
def test_an_error_in_a_stream_is_its_last_event(tiny_services: Services) -> None:
    body = {"model": "base", "messages": HELLO, "stream": True}
    answer = client_of(tiny_services).post("/v1/chat/completions", json=body)
    *_, last, end = answer.text.split("\n\n")
    assert (answer.status_code, end) == (200, "")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert "[DONE]" not in answer.text
    assert "secret" not in answer.text


@pytest.mark.usefixtures("broken_answers")
def test_the_client_raises_what_comes_in_a_stream(tiny_openai: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="something unexpected went wrong"):
        list(ask(tiny_openai, stream=True))


def test_a_client_that_goes_away_frees_its_place(tiny_openai: openai.OpenAI, tiny_services: Services) -> None:
    with ask(tiny_openai, stream=True, max_tokens=400, extra_body={"min_tokens": 400}) as stream:
        next(iter(stream))
    after = tiny_services.engine.submit(Ask([5], Sampling(max_new_tokens=1)))
    assert after.result(60).choices
    assert tiny_services.engine.waiting == 0
