"""Reading one HTTP answer: its status, range and state, and its body without waiting for ever."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from adapter_service.connectors.files import CONTENT_TYPES, FileFormat
from adapter_service.errors import SourceFormatError, SourceUnreachableError

PIECE_BYTES = 65_536
# A server that trickles less than this per timeout has stalled, though each read gives something.
MIN_BYTES_PER_TIMEOUT = 1024
# Request Timeout, Too Early, Too Many Requests.
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(?:(\d+)|\*)")


@dataclass(frozen=True, slots=True)
class ContentRange:
    start: int
    size: int
    total: int | None

    @classmethod
    def of(cls, value: str) -> ContentRange:
        """What an answer's Content-Range says that it holds; of a 416 only the total is known."""
        match = _RANGE.fullmatch(value)
        if match is None:
            raise SourceFormatError(f"a range was answered with Content-Range {value!r}, which is none")
        first, last, total = (int(part) if part else None for part in match.groups())
        size = 0 if first is None or last is None else last - first + 1
        return cls(first or 0, size, total)


def refuse_status(response: requests.Response, label: str, authorized_by: str) -> None:
    """Let 200, 206 and 416 pass.

    Raises:
        requests.HTTPError: 408, 425, 429 or 5xx, worth another try.
        SourceUnreachableError: any other, with what to do about it.
    """
    status = response.status_code
    if status in {200, 206, 416}:
        return
    answer = f"{status} {response.reason or ''}".strip()
    if status in _WORTH_ANOTHER_TRY or status >= 500:
        raise requests.HTTPError(f"the server answered {answer}", response=response)
    advice = {
        401: f"give a token under {authorized_by}",
        403: f"check the token under {authorized_by} and that it may read this file",
        404: "check the address; the server knows no such file",
    }.get(status, "check the address")
    raise SourceUnreachableError(f"{label}: the server answered {answer}; {advice}")


def retry_after_seconds(error: Exception) -> float:
    """How long the refused request's answer asks to wait: seconds, or a date; 0 where it says neither."""
    response = getattr(error, "response", None)
    value = "" if response is None else response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        # No date, or one without a zone, from which nothing can be taken away.
        return 0.0


def stamp_of(response: requests.Response, total: int | None) -> dict[str, Any]:
    """What tells this state of the file from another."""
    headers = response.headers
    stamp = {"etag": headers.get("etag"), "last_modified": headers.get("last-modified"), "size": total}
    return {key: value for key, value in stamp.items() if value is not None}


def format_of(response: requests.Response) -> FileFormat | None:
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return CONTENT_TYPES.get(content_type)


def body(raw: Any, timeout_seconds: float) -> Iterator[bytes]:
    """The body as it was sent, in small pieces as they come; `raw` is urllib3's answer.

    Raises:
        requests.ReadTimeout: it trickles.
        urllib3.exceptions.HTTPError: it ends before its announced length.
    """
    waited, received = 0.0, 0
    while True:
        # Only the time within the read counts: what is done with a piece may take minutes.
        asked_at = time.monotonic()
        piece = raw.read1(PIECE_BYTES, decode_content=False)
        waited += time.monotonic() - asked_at
        received += len(piece)
        if not piece:
            return
        yield piece
        if waited > timeout_seconds:
            if received < MIN_BYTES_PER_TIMEOUT:
                raise requests.ReadTimeout(f"only {received} bytes came within {waited:.1f} s")
            waited, received = 0.0, 0
