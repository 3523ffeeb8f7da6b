"""Answers of a real base: text, language, streams, traces, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.engine.generations import GenerationResult
from adapter_service.engine.requests import Ask, Sampling

pytestmark = pytest.mark.model

LONG: dict[str, Any] = {
    "prompt": "Count: one two three",
    "adapter": "base",
    "max_new_tokens": 512,
    "min_new_tokens": 512,
}


def ask(client: TestClient, **body: Any) -> Any:
    given = {"prompt": "The capital of France is", "adapter": "base", "max_new_tokens": 12, **body}
    response = client.post("/generate-lite", json=given)
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: TestClient, **body: Any) -> list[tuple[str, Any]]:
    given = {
        "prompt": "The capital of France is",
        "adapter": "base",
        "max_new_tokens": 12,
        "stream": True,
        **body,
    }
    response = client.post("/generate-lite", json=given)
    assert response.headers["content-type"].startswith("text/event-stream")
    return list(events(response.text))


def events(text: str) -> Iterator[tuple[str, Any]]:
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n", 1)
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_an_answer_has_everything_that_was_promised(model_client: TestClient) -> None:
    answer = ask(model_client, trace_id="t-7")
    assert answer["text"].strip()
    assert "The capital of France" not in answer["text"]
    assert answer["generated_text"] == answer["text"]
    assert (answer["adapter"], answer["version"], answer["trace_id"]) == ("base", None, "t-7")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (answer["finish_reason"], answer["lang_ok"]) == ("length", None)
    assert answer["lang_tag"].startswith(answer["lang"])
    assert answer["latency_ms"] > 0


def test_the_language_asked_for_is_the_one_that_is_judged(model_client: TestClient) -> None:
    answer = ask(model_client, lang="Hindi")
    assert (answer["lang"], answer["lang_tag"], answer["lang_ok"]) == ("hi", "hi-Deva-IN", False)
    assert ask(model_client, prompt="Translate to Tamil: Water")["lang_tag"] == "ta-Taml-IN"


def test_a_stream_has_the_same_text_as_the_answer_at_once(model_client: TestClient) -> None:
    wanted = {"temperature": 0.9, "seed": 11, "max_new_tokens": 20}
    *tokens, (last, done) = stream(model_client, **wanted)
    assert last == "done"
    assert {name for name, _ in tokens} == {"token"}
    assert "".join(data["text"] for _, data in tokens) == done["text"] == ask(model_client, **wanted)["text"]
    assert done.keys() == ask(model_client).keys()


def test_a_stop_text_ends_the_answer_before_it(model_client: TestClient) -> None:
    answer = ask(model_client, stop=" is", prompt="Say: The sky is blue. Again:", max_new_tokens=40)
    assert " is" not in answer["text"]


def test_two_requests_at_once_keep_their_traces_apart(model_client: TestClient) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda name: ask(model_client, trace_id=name), ["left", "right"]))
    assert [answer["trace_id"] for answer in answers] == ["left", "right"]


@pytest.mark.parametrize("words", [1100, 9000])
def test_a_prompt_that_is_too_long_is_refused_with_the_limit(model_client: TestClient, words: int) -> None:
    response = model_client.post("/generate-lite", json={"prompt": "word " * words, "adapter": "base"})
    assert (response.status_code, response.json()["code"]) == (422, "prompt_too_long")
    assert "1024" in response.json()["detail"]


def test_an_end_token_that_the_base_lacks_is_refused(model_client: TestClient) -> None:
    body = {"prompt": "x", "adapter": "base", "eos_token_id": [1, 49152]}
    problem = model_client.post("/generate-lite", json=body).json()
    assert (problem["status"], problem["parameter"]) == (422, "eos_token_id")


def test_hindi_survives_tokens_and_back(model_client: TestClient) -> None:
    text = "सुप्रभात, दुनिया! नमस्ते — ज़िंदगी"
    tokens = model_client.post("/tokenize", json={"text": text}).json()
    assert tokens["count"] == len(tokens["ids"]) == len(tokens["tokens"]) > 0
    assert model_client.post("/detokenize", json={"ids": tokens["ids"]}).json() == {"text": text}


def test_an_unknown_token_is_refused(model_client: TestClient) -> None:
    for token in (-1, 10**12):
        problem = model_client.post("/detokenize", json={"ids": [token]}).json()
        assert (problem["status"], problem["parameter"]) == (422, "ids")


def test_health_says_what_is_loaded_and_how(model_client: TestClient) -> None:
    answer = model_client.get("/health").json()
    assert (answer["status"], answer["base"]) == ("ok", "package:smollm2-135m")
    assert {"device", "dtype", "quantization", "reason"} <= answer["precision"].keys()
    kernel = answer["engine"]["kernel"]
    assert kernel["name"] in {"as_loaded", "float16"}
    assert kernel["gigabytes_per_second"] > 0
    assert kernel["prompts"] in {"compiled", "modules"}
    assert answer["engine"]["batch_invariant"] is True
    assert answer["memory"]["resident_mb"] > 100
    assert model_client.get("/ready").json()["ready"] is True


class GoneClient:
    """An ASGI client that goes away when the answer begins, or while it waits for it."""

    def __init__(self, services: Services, app: Any, *, streams: bool) -> None:
        self._services, self._app, self._streams = services, app, streams
        self._body = json.dumps({**LONG, "stream": streams}).encode()
        self._leaving = asyncio.Event()
        self.status: int | None = None

    async def run(self) -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/generate-lite", "raw_path": b"/generate-lite",
            "query_string": b"", "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "root_path": "",
        }  # fmt: skip
        await asyncio.wait_for(self._app(scope, self._receive, self._send), 60)

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._body:
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        if self._streams:
            await self._leaving.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self._leaving.set()


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes_away_frees_its_place_within_one_token(
    model_services: Services, model_client: TestClient, streams: bool
) -> None:
    gone = GoneClient(model_services, model_client.app, streams=streams)
    asyncio.run(gone.run())
    # Whoever asks next is answered as soon as the one before is out of the way: 512 tokens take many seconds.
    after = model_services.engine.submit(Ask([5], Sampling(max_new_tokens=1)))
    assert after.result(30).waited_seconds < 3
    assert model_services.engine.waiting == 0
    assert gone.status == (200 if streams else 499)


def test_a_stream_that_was_never_begun_is_cancelled_too(model_services: Services) -> None:
    from adapter_service.api.generation_requests import ask as put
    from adapter_service.api.generation_streams import AnswerStream
    from adapter_service.api.schemas.generation import GenerateBody

    async def leave_at_once() -> GenerationResult:
        asked = put(GenerateBody(**LONG), model_services, trace_id="t", arrived_at=0.0)
        await gone(AnswerStream({"path": "/generate-lite"}, asked))
        return await asyncio.to_thread(asked.generation.result, 30)

    async def gone(response: AnswerStream) -> None:
        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            await asyncio.Event().wait()  # a connection that takes nothing any more

        await response({"type": "http"}, receive, send)

    assert asyncio.run(leave_at_once()).only.finish_reason == "cancelled"
