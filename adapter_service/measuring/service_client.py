"""A running service, asked over HTTP as any client would.

Its API key, where it wants one, is the environment variable ADAPTER_API_KEY.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from adapter_service.errors import ServiceAnswerError
from adapter_service.settings.environment import API_KEY


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered; `lang_ok` is its own opinion."""

    text: str
    lang_tag: str | None
    lang_ok: bool | None
    version: str | None
    completion_tokens: int
    finish_reason: str | None
    latency_ms: float

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.latency_ms * 1000 if self.latency_ms else 0.0


class ServiceClient:
    """Asks one running service, one request at a time."""

    def __init__(self, base_url: str, *, timeout_seconds: float = 300.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout_seconds
        self._session = requests.Session()
        # A proxy of the environment has no business between two processes of one machine.
        self._session.trust_env = False
        if key := os.environ.get(API_KEY):
            self._session.headers["X-API-Key"] = key
        # A connection that was kept may be gone when it is used again: after a laptop has slept, for one.
        again = Retry(total=3, backoff_factor=0.5, allowed_methods=["GET"], status=0)
        self._session.mount("http://", HTTPAdapter(max_retries=again))

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def generate(self, prompt: str, *, lang: str, adapter: str, max_new_tokens: int, trace_id: str) -> Answer:
        """Greedy, so that the same service gives the same answer again.

        Raises:
            ServiceAnswerError: the service cannot be reached, or does not answer the prompt.
        """
        body = self.ask(
            "POST",
            "/generate-lite",
            {
                "prompt": prompt,
                "lang": lang,
                "adapter": adapter,
                "max_new_tokens": max_new_tokens,
                "do_sample": False,
                "trace_id": trace_id,
            },
        )
        try:
            return _answer(body)
        except (KeyError, TypeError) as error:
            raise ServiceAnswerError(
                f"the answer of {self.base_url}/generate-lite has no usable {error}; "
                "is another service or version listening there?"
            ) from error

    def running_since(self) -> str | None:
        """When the service started, in its own words; None where it does not say."""
        started = self.ask("GET", "/health").get("started_at")
        return None if started is None else str(started)

    def training_job(self, adapter: str) -> Mapping[str, Any] | None:
        """The status of the job that made the adapter's live version; None where there is none to ask about."""
        for listed in self.ask("GET", "/adapter/list")["adapters"]:
            for version in listed["versions"]:
                if listed["name"] == adapter and version["status"] == "live" and version["job_id"]:
                    return self.ask("GET", f"/adapter/status/{version['job_id']}")
        return None

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One request, its JSON answer.

        Raises:
            ServiceAnswerError: no connection, or a status that is not 2xx; with the service's reason.
        """
        try:
            response = self._session.request(method, self.base_url + path, json=body, timeout=self._timeout)
            content = response.json()
        except requests.RequestException as error:
            raise ServiceAnswerError(
                f"no usable answer from {self.base_url}{path}: {error}; "
                "start the service with 'adapter-service serve', or give the address of the one that runs"
            ) from error
        if not response.ok or not isinstance(content, dict):
            detail = content.get("detail", content) if isinstance(content, dict) else content
            raise ServiceAnswerError(
                f"{method} {self.base_url}{path} answered {response.status_code}: {detail}; "
                "the service's log has more under the same trace id"
            )
        return content


def _answer(body: Mapping[str, Any]) -> Answer:
    return Answer(
        text=body["text"],
        lang_tag=body.get("lang_tag"),
        lang_ok=body.get("lang_ok"),
        version=None if body.get("version") is None else str(body["version"]),
        completion_tokens=int(body["usage"]["completion_tokens"]),
        finish_reason=body.get("finish_reason"),
        latency_ms=float(body["latency_ms"]),
    )
