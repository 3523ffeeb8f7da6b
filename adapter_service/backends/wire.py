"""HTTP to a server: JSON in, JSON or a stream of events out, and what went wrong in this service's words."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import httpx2

from adapter_service.errors import BackendError, BackendRefusalError, BackendUnreachableError

# At INFO it has a line for every request.
logging.getLogger("httpx2").setLevel(logging.WARNING)

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_SHOWN_CHARACTERS = 300
_REASONS: dict[int | None, Literal["invalid", "unknown"]] = {400: "invalid", 422: "invalid", 404: "unknown"}
_UNAVAILABLE = frozenset({502, 503, 504})
# vLLM's words, under a 500, when its engine has ended and the server is about to.
_ENGINE_IS_DEAD = ("EngineCore", "EngineDead")


class Wire:
    """One server, called `name` in errors."""

    def __init__(self, name: str, url: str, *, api_key: str | None = None) -> None:
        self.name = name
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Nothing from the environment: a proxy or a .netrc there is not meant for these servers.
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )

    async def close(self) -> None:
        """Answers under way end; no more can be asked."""
        await self._client.aclose()

    async def get_json(self, path: str, *, seconds: float = _ANSWER_SECONDS) -> Any:
        """What `path` has; errors as for `get`, and where it is no JSON."""
        return self._parsed(await self.get(path, seconds=seconds))

    async def get(self, path: str, *, seconds: float = _ANSWER_SECONDS) -> str:
        """The body of `path`.

        Raises:
            BackendUnreachableError: no connection, a timeout, or the server says that it is not ready.
            BackendError: it answers with an error.
        """
        with self._faults():
            response = await self._client.get(path, timeout=seconds)
        self._check(response.status_code, response.text)
        return response.text

    async def post(self, path: str, body: Mapping[str, Any], *, seconds: float = _ANSWER_SECONDS) -> str:
        """What `path` answers to JSON; errors as for `get`."""
        with self._faults():
            response = await self._client.post(path, json=body, timeout=seconds)
        self._check(response.status_code, response.text)
        return response.text

    @asynccontextmanager
    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[AsyncGenerator[Any, None], None]:
        """The data of each event that `path` streams, from JSON; leaving the block ends the request.

        The first event may take any time: others may be before it. Errors as for `get`.
        """
        timeout = httpx2.Timeout(None, connect=_CONNECT_SECONDS)
        with self._faults():
            async with self._client.stream("POST", path, json=body, timeout=timeout) as response:
                if response.status_code != 200:
                    self._check(response.status_code, (await response.aread()).decode(errors="replace"))
                yield self._data(response)

    async def _data(self, response: httpx2.Response) -> AsyncGenerator[Any, None]:
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            text = line.removeprefix("data:").strip()
            if text == "[DONE]":
                return
            data = self._parsed(text)
            if isinstance(data, dict) and data.get("error"):
                raise self._refusal(_code(data["error"]), text)
            yield data

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise BackendError(f"{self.name} answers with what is no JSON: {text[:_SHOWN_CHARACTERS]}") from error

    def _check(self, status: int, body: str) -> None:
        if status != 200:
            raise self._refusal(status, body)

    def _refusal(self, status: int | None, body: str) -> BackendError:
        said = f"{self.name} answers{'' if status is None else f' {status}'}: {_message(body)[:_SHOWN_CHARACTERS]}"
        is_dead = status is not None and status >= 500 and any(word in body for word in _ENGINE_IS_DEAD)
        if status in _UNAVAILABLE or is_dead:
            return BackendUnreachableError(f"{said}; try again in some seconds")
        return BackendRefusalError(said, _REASONS.get(status, "other"))

    @contextmanager
    def _faults(self) -> Generator[None, None, None]:
        """What the client raises inside, as this service's error."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            said = str(error) or type(error).__name__
            raise BackendUnreachableError(f"{self.name} does not answer: {said}; try again in some seconds") from error


def _code(error: Any) -> int | None:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else None


def _message(body: str) -> str:
    """The message in an error of OpenAI's, FastAPI's or llama.cpp's form, else the whole body."""
    try:
        described = json.loads(body)
    except ValueError:
        return body
    if not isinstance(described, dict):
        return body
    error = described.get("error", described)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or body
    return str(error)
