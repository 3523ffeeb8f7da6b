"""One file over HTTP from any offset: by Range requests, or by one long answer where there are none.

A connection that fails is tried again at the byte that was reached. A file that changes meanwhile
(another ETag, date or size) is an error: its halves do not belong together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import requests

from adapter_service.connectors.files import FileFormat
from adapter_service.connectors.files.compression import NAMES, Compression
from adapter_service.connectors.http_answer import (
    ContentRange,
    body,
    format_of,
    refuse_status,
    retry_after_seconds,
    stamp_of,
)
from adapter_service.connectors.outbound import Outbound, shown
from adapter_service.connectors.patience import pause_seconds, persistently
from adapter_service.connectors.ranges import Reading
from adapter_service.errors import SourceFormatError, SourceUnreachableError

# A server without ranges gives a file of at most this size as often as a part of it is asked for.
SMALL_FILE_BYTES = 1_048_576
# A server that asks for a longer pause (Retry-After) is not waited for.
MAX_RETRY_AFTER_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How hard to try: attempts in a row without progress, and how long to wait for a byte."""

    attempts: int = 4
    backoff_seconds: float = 0.5
    timeout_seconds: float = 30.0
    compression: Compression | None = None
    least_range_bytes: int = 0
    is_immutable: bool = False
    """The URL names one state of the file for ever, whatever ETags and dates its mirrors give."""
    authorized_by: str = "`headers` (Authorization: Bearer ${TOKEN})"
    """Where the source's configuration has its token."""
    sleep: Callable[[float], None] = time.sleep


class HttpFile:
    """The file at a URL; `connect` opens the connections that one reading of it uses.

    Entered as a context manager, it keeps them from one reading of a part to the next.
    """

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
        self._announced: FileFormat | None = None
        self._kept: Outbound | None = None
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        self._kept = self._exits.enter_context(self._connect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept = None
        self._exits.close()

    def blocks(self, offset: int, stop: int | None = None) -> Iterator[bytes]:
        reading = Reading(offset, stop, self._options.least_range_bytes)
        with self._connection() as outbound:
            yield from persistently(reading, partial(self._request, outbound, reading), self._wait)

    def announced_format(self) -> FileFormat | None:
        """What the server's Content-Type says, for an address whose end says nothing."""
        if self._announced is None:
            next(self.blocks(0), None)
        return self._announced

    @contextmanager
    def _connection(self) -> Iterator[Outbound]:
        if self._kept is not None:
            yield self._kept
            return
        with self._connect() as outbound:
            yield outbound

    def _wait(self, failures: int, error: Exception) -> None:
        """Sleep before the next attempt, as long as the server asks for, or twice as long as the last time.

        Raises:
            SourceUnreachableError: no further attempt.
        """
        if failures >= self._options.attempts:
            raise SourceUnreachableError(
                f"{self.label} cannot be read: {_cause(error)} ({failures} attempts); "
                "check the address, the network and whether the server runs"
            ) from error
        asked = retry_after_seconds(error)
        if asked > MAX_RETRY_AFTER_SECONDS:
            raise SourceUnreachableError(
                f"{self.label} cannot be read: {_cause(error)} and asks to come back in {asked:.0f} s, more than "
                f"{MAX_RETRY_AFTER_SECONDS:.0f} s are waited; start again then"
            ) from error
        self._options.sleep(max(pause_seconds(self._options.backoff_seconds, failures), asked))

    def _get(self, outbound: Outbound, reading: Reading) -> requests.Response:
        # Offsets are of the file as it lies there, so it must not be compressed on the way.
        headers = {
            "Range": reading.header,
            "Accept-Encoding": "identity",
        }
        etag = self.stamp.get("etag", "")
        if etag and not etag.startswith("W/"):
            headers["If-Range"] = etag
        response = outbound.get(self._url, headers)
        try:
            refuse_status(response, self.label, self._options.authorized_by)
        except BaseException:
            response.close()
            raise
        self._announced = format_of(response)
        return response

    def _request(self, outbound: Outbound, reading: Reading) -> Iterator[bytes]:
        """The bytes of one answer; `reading` is kept at the offset that was reached."""
        with self._get(outbound, reading) as response:
            self._check_encoding(response)
            if response.status_code == 206:
                yield from self._one_range(response, reading)
            elif response.status_code == 416:
                self._past_the_end(response, reading)
            else:
                yield from self._whole(response, reading)

    def _one_range(self, response: requests.Response, reading: Reading) -> Iterator[bytes]:
        given = ContentRange.of(response.headers.get("content-range", ""))
        self._check_stamp(response, given.total)
        asked = reading.asked_bytes
        if given.start != reading.offset or given.size > asked:
            raise SourceFormatError(
                f"{self.label}: asked for the bytes from {reading.offset} on, the server gave "
                f"{response.headers.get('content-range')!r}; it does not do ranges as it should"
            )
        for block in body(response.raw, self._options.timeout_seconds):
            reading.offset += len(block)
            yield block
        # A server that does not know the total gives less than was asked for at the end.
        reading.is_at_end = given.size < asked if given.total is None else reading.offset == given.total

    def _past_the_end(self, response: requests.Response, reading: Reading) -> None:
        given = response.headers.get("content-range")
        # Not every server says how long the file is; one of which nothing is known yet is empty.
        total = ContentRange.of(given).total if given else self.stamp.get("size", 0)
        self._check_stamp(response, total)
        if total is not None and total < reading.offset:
            raise self._changed(f"it has {total} bytes now")
        reading.is_at_end = True

    def _whole(self, response: requests.Response, reading: Reading) -> Iterator[bytes]:
        """A server without ranges: everything from the start, of which the known part is passed over."""
        length = response.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else None
        self._check_stamp(response, size)
        if reading.stop is not None and (size is None or size > SMALL_FILE_BYTES):
            raise SourceFormatError(
                f"{self.label}: a format that is read in parts needs a server that gives ranges, and this one "
                "gives only the whole; serve the file from one that does, or as JSONL"
            )
        skip = reading.offset
        for block in body(response.raw, self._options.timeout_seconds):
            fresh = block[skip : None if reading.stop is None else skip + reading.stop - reading.offset]
            skip = max(0, skip - len(block))
            reading.offset += len(fresh)
            if fresh:
                yield fresh
        if skip:
            raise self._changed(f"it ends {skip} bytes before that")
        reading.is_at_end = True

    def _check_stamp(self, response: requests.Response, total: int | None) -> None:
        stamp = stamp_of(response, total)
        if self._options.is_immutable:
            stamp = {key: value for key, value in stamp.items() if key == "size"}
        for key in self.stamp.keys() & stamp.keys():
            if self.stamp[key] != stamp[key]:
                raise self._changed(f"its {key} was {self.stamp[key]!r} and is {stamp[key]!r}")
        self.stamp |= stamp

    def _check_encoding(self, response: requests.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity").lower()
        compression = self._options.compression
        if encoding != "identity" and not (compression and encoding == NAMES[compression]):
            raise SourceFormatError(
                f"{self.label}: the server compresses its answer ({encoding}) though asked not to; "
                "if the file itself is .gz or .zst, say `compression: gz` or `zst`"
            )

    def _changed(self, how: str) -> SourceFormatError:
        return SourceFormatError(
            f"{self.label} has changed since the place in it was noted: {how}; start again from the beginning"
        )


def _cause(error: Exception) -> str:
    """The innermost reason, without the layers that urllib3 and requests put around it."""
    while isinstance(error.args and error.args[0], Exception):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return _cause(reason) if isinstance(reason, Exception) else str(error)
