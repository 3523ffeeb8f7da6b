"""One file over HTTP from any offset: by Range requests, or by one long answer where there are none.

A connection that fails is tried again at the byte that was reached. A file that changes meanwhile
(another ETag, date or size) is an error: its halves do not belong together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3.exceptions

from adapter_service.connectors.formats import FileFormat
from adapter_service.connectors.http_answer import ContentRange, body, format_of, refuse_status, stamp_of
from adapter_service.connectors.outbound import Outbound, shown
from adapter_service.errors import SourceFormatError, SourceUnreachableError

RANGE_BYTES = 524_288
MAX_BACKOFF_SECONDS = 30.0

_TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.HTTPError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How hard to try: attempts in a row without a single new byte, and how long to wait for one."""

    attempts: int = 4
    backoff_seconds: float = 0.5
    timeout_seconds: float = 30.0
    is_gzip: bool = False
    sleep: Callable[[float], None] = time.sleep


class HttpFile:
    """The file at a URL; `connect` opens the connections that one reading of it uses."""

    def __init__(
        self,
        url: str,
        connect: Callable[[], Outbound],
        options: HttpOptions,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        self.label = shown(url)
        self.stamp: dict[str, Any] = dict(known or {})
        self._url = url
        self._connect = connect
        self._options = options

    def blocks(self, offset: int) -> Iterator[bytes]:
        failures = 0
        with self._connect() as outbound:
            while True:
                reading = _Reading(offset)
                try:
                    for block in self._request(outbound, reading):
                        failures = 0
                        yield block
                    _require_progress(reading, offset)
                except _TRANSIENT as error:
                    failures += 1
                    self._wait(failures, error)
                offset = reading.offset
                if reading.is_complete:
                    return

    def announced_format(self) -> FileFormat | None:
        """What the server's Content-Type says, for an address whose end says nothing."""
        with self._connect() as outbound, self._get(outbound, 0) as response:
            return format_of(response)

    def _wait(self, failures: int, error: Exception) -> None:
        if failures >= self._options.attempts:
            raise SourceUnreachableError(
                f"{self.label} cannot be read: {_cause(error)} ({failures} attempts); "
                "check the address, the network and whether the server runs"
            ) from error
        self._options.sleep(min(self._options.backoff_seconds * 2 ** (failures - 1), MAX_BACKOFF_SECONDS))

    def _get(self, outbound: Outbound, offset: int) -> requests.Response:
        # Offsets are of the file as it lies there, so it must not be compressed on the way.
        headers = {
            "Range": f"bytes={offset}-{offset + RANGE_BYTES - 1}",
            "Accept-Encoding": "identity",
        }
        etag = self.stamp.get("etag", "")
        if etag and not etag.startswith("W/"):
            headers["If-Range"] = etag
        response = outbound.get(self._url, headers)
        try:
            refuse_status(response, self.label)
        except BaseException:
            response.close()
            raise
        return response

    def _request(self, outbound: Outbound, reading: _Reading) -> Iterator[bytes]:
        """The bytes of one answer; `reading` is kept at the offset that was reached."""
        with self._get(outbound, reading.offset) as response:
            self._check_encoding(response)
            if response.status_code == 206:
                yield from self._one_range(response, reading)
            elif response.status_code == 416:
                self._past_the_end(response, reading)
            else:
                yield from self._whole(response, reading)

    def _one_range(self, response: requests.Response, reading: _Reading) -> Iterator[bytes]:
        given = ContentRange.of(response)
        self._check_stamp(response, given.total)
        if given.start != reading.offset or given.size > RANGE_BYTES:
            raise SourceFormatError(
                f"{self.label}: asked for the bytes from {reading.offset} on, the server gave "
                f"{response.headers.get('content-range')!r}; it does not do ranges as it should"
            )
        for block in body(response, self._options.timeout_seconds):
            reading.offset += len(block)
            yield block
        # A server that does not know the total gives less than was asked for at the end.
        reading.is_complete = given.size < RANGE_BYTES if given.total is None else reading.offset == given.total

    def _past_the_end(self, response: requests.Response, reading: _Reading) -> None:
        total = ContentRange.of(response).total
        self._check_stamp(response, total)
        if total is not None and total < reading.offset:
            raise self._changed(f"it has {total} bytes now")
        reading.is_complete = True

    def _whole(self, response: requests.Response, reading: _Reading) -> Iterator[bytes]:
        """A server without ranges: everything from the start, of which the known part is passed over."""
        length = response.headers.get("content-length")
        self._check_stamp(response, int(length) if length else None)
        skip = reading.offset
        for block in body(response, self._options.timeout_seconds):
            fresh = block[skip:]
            skip = max(0, skip - len(block))
            reading.offset += len(fresh)
            if fresh:
                yield fresh
        if skip:
            raise self._changed(f"it ends {skip} bytes before that")
        reading.is_complete = True

    def _check_stamp(self, response: requests.Response, total: int | None) -> None:
        stamp = stamp_of(response, total)
        for key in self.stamp.keys() & stamp.keys():
            if self.stamp[key] != stamp[key]:
                raise self._changed(f"its {key} was {self.stamp[key]!r} and is {stamp[key]!r}")
        self.stamp |= stamp

    def _check_encoding(self, response: requests.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding != "identity" and not (encoding == "gzip" and self._options.is_gzip):
            raise SourceFormatError(
                f"{self.label}: the server compresses its answer ({encoding}) though asked not to; "
                "if the file itself is .gz, say `compression: gz`"
            )

    def _changed(self, how: str) -> SourceFormatError:
        return SourceFormatError(
            f"{self.label} has changed since the place in it was noted: {how}; start again from the beginning"
        )


@dataclass(slots=True)
class _Reading:
    offset: int
    is_complete: bool = False


def _require_progress(reading: _Reading, offset: int) -> None:
    if reading.offset == offset and not reading.is_complete:
        raise requests.ConnectionError("the server answered with nothing")


def _cause(error: Exception) -> str:
    """The innermost reason, without the layers that urllib3 and requests put around it."""
    while isinstance(error.args and error.args[0], Exception):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return _cause(reason) if isinstance(reason, Exception) else str(error)
