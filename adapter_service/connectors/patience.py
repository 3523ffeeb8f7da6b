"""How often a source that fails is asked again, and how long is waited before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import requests
import urllib3.exceptions

from adapter_service.connectors.ranges import Reading

MAX_BACKOFF_SECONDS = 30.0
# Less than this between two failures is no progress: a byte for each connection would never end.
MIN_PROGRESS_BYTES = 256

# What may be otherwise the next time.
TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.HTTPError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


def pause_seconds(first_seconds: float, failures: int) -> float:
    """Twice as long after each failure in a row, up to half a minute."""
    return min(first_seconds * 2.0 ** (failures - 1), MAX_BACKOFF_SECONDS)


def persistently(
    reading: Reading, ask: Callable[[], Iterator[bytes]], failed: Callable[[int, Exception], None]
) -> Iterator[bytes]:
    """The bytes of one answer after the other until the reading is complete, each asked for at the byte reached.

    `failed` is told of each failure, and how many there were in a row without progress; it waits, or raises
    when they are enough.
    """
    failures, reached = 0, reading.offset
    while not reading.is_complete:
        asked_from = reading.offset
        try:
            yield from ask()
            if reading.offset == asked_from and not reading.is_complete:
                raise requests.ConnectionError("it was answered with nothing")
        except TRANSIENT as error:
            failures = 1 if reading.offset - reached >= MIN_PROGRESS_BYTES else failures + 1
            reached = reading.offset
            failed(failures, error)
