"""What a vLLM 0.32 server says, as it was recorded of a real one; its texts are the model's name and "says so".

`real_vllm.py` is for the real one: this stands in for it where a test needs it to fail at a certain moment.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.backends.scripted import tokens_of

END = 1


class VllmDouble:
    """Listens between `start` and `stop`, on one port for good; `start` again is a restart."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.adapters: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.breaks_after: int | None = None
        self.refuses: tuple[int, str] | None = None
        self.waits = False
        self.models_said: str | None = None
        self.completes_with: tuple[int, str] | None = None
        self.looks = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.name}"

    def start(self) -> None:
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=self.port, ws="none", log_config=None)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="vllm-double")
        self._thread.start()

    def stop(self) -> None:
        """As a kill: whoever is being answered is cut off, and what was loaded is forgotten."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(20)
            self._server = None
        self.adapters.clear()

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/metrics", self._metrics),
            ]
        )

    async def _models(self, _: Request) -> Response:
        self.looks += 1
        if self.models_said is not None:
            return PlainTextResponse(self.models_said)
        base = {"id": "smol", "object": "model", "root": "/base", "parent": None, "max_model_len": 200}
        others = [
            {"id": name, "object": "model", "root": path, "parent": "smol", "max_model_len": None}
            for name, path in self.adapters.items()
        ]
        return JSONResponse({"object": "list", "data": [base, *others]})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if self.refuses is not None:
            return _error(*self.refuses)
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded. If you want …")
        if not (Path(path) / "adapter_config.json").exists():
            return _error(404, "Loading lora x failed: No adapter found for <path>")
        self.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.completes_with is not None:
            return _error(*self.completes_with)
        if body["model"] not in {"smol", *self.adapters}:
            return _error(404, f"The model `{body['model']}` does not exist. Valid aliases: smol.")
        return StreamingResponse(self._stream(body), media_type="text/event-stream; charset=utf-8")

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse('# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 2.0\n')

    async def _stream(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        said = tokens_of(f"{body['model']} says so")
        rest = said[_overlap(body["prompt"], said) :]
        if body.get("top_p") == 0.123:
            yield _event({"error": {"message": "top_p must be otherwise", "type": "BadRequestError", "code": 400}})
            return
        for place, token in enumerate(rest):
            if self.breaks_after == place:
                self.breaks_after = None
                raise RuntimeError("cut off")
            while self.waits:
                await asyncio.sleep(0.01)
            yield _event(
                {
                    "choices": [
                        {"index": 0, "text": "?", "finish_reason": None, "token_ids": [token], **_shares(body, token)}
                    ]
                }
            )
        yield _event(
            {"choices": [{"index": 0, "text": "", "finish_reason": "stop", "token_ids": [END], **_shares(body, END)}]}
        )
        yield "data: [DONE]\n\n"


def _overlap(prompt: list[int], said: tuple[int, ...]) -> int:
    """So much of `said` stands at the end of the prompt already."""
    return next(length for length in range(len(said), -1, -1) if tuple(prompt[len(prompt) - length :]) == said[:length])


def _shares(body: dict[str, Any], token: int) -> dict[str, Any]:
    if body.get("logprobs") is None:
        return {"logprobs": None}
    top = {f"token_id:{token}": -0.25, "token_id:7": -0.5, "token_id:8": -3.0}
    kept = dict(list(top.items())[: max(body["logprobs"], 1)])
    return {"logprobs": {"token_logprobs": [-0.25], "tokens": [f"token_id:{token}"], "top_logprobs": [kept]}}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": status}}, status)
