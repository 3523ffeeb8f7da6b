"""What a node asks of the service itself: a URL in place of an old one, and that it has what it was to get."""

from __future__ import annotations

import json
from typing import Any

import requests

from adapter_service.connectors.outbound import Outbound
from adapter_service.errors import ServiceAnswerError, SourceUnreachableError, StoreUnreachableError

_TIMEOUT_SECONDS = 10.0
_MAX_ANSWER_BYTES = 1_048_576
_OVER = frozenset({404, 409, 410})


class Service:
    """One service under one node's key, which nobody else is sent."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def artifact_url(self, job_id: str) -> str | None:
        """Where its artifact can be fetched now, if it can.

        Raises:
            StoreUnreachableError: the service does not answer, or not now.
            ServiceAnswerError: it will not.
        """
        status, answer = self._ask(job_id)
        if status in _OVER:
            return None
        if status != 200:
            raise self._refused(status)
        found = answer.get("artifact_url")
        return found if isinstance(found, str) and found.startswith(("http://", "https://")) else None

    def acknowledge(self, job_id: str) -> None:
        """Say that this node has its artifact; that it is gone already is as good. Raises as above."""
        status, _ = self._ask(job_id, acknowledge=True)
        if status not in _OVER and not 200 <= status < 300:
            raise self._refused(status)

    def _refused(self, status: int) -> ServiceAnswerError:
        return ServiceAnswerError(f"the service answers {status}; check this node's key (--key-env)")

    def _ask(self, job_id: str, *, acknowledge: bool = False) -> tuple[int, dict[str, Any]]:
        url = f"{self._url}/api/v0/adapters/jobs/{job_id}"
        try:
            with Outbound(headers=self._headers, timeout_seconds=_TIMEOUT_SECONDS, allow_private=True) as outbound:
                response = outbound.post(f"{url}/acknowledge", b"", {}) if acknowledge else outbound.get(url, {})
                with response:
                    status, content = response.status_code, _content(response)
        except (requests.RequestException, SourceUnreachableError) as error:
            raise StoreUnreachableError(f"the service cannot be reached ({type(error).__name__})") from None
        if status >= 500 or status == 429:
            raise StoreUnreachableError(f"the service answers {status}; it is asked again later")
        return status, content


def _content(response: requests.Response) -> dict[str, Any]:
    body = b""
    for block in response.iter_content(1 << 16):
        body += block
        if len(body) > _MAX_ANSWER_BYTES:
            raise StoreUnreachableError(f"the service's answer has more than {_MAX_ANSWER_BYTES} bytes")
    try:
        answer = json.loads(body) if body else {}
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
