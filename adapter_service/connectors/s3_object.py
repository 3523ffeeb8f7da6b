"""One S3 object from any offset, in ranges; one that changes meanwhile (another ETag) is an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from adapter_service.connectors.http_answer import ContentRange, body
from adapter_service.connectors.patience import pause_seconds, persistently
from adapter_service.connectors.ranges import Reading
from adapter_service.connectors.s3_errors import S3Errors
from adapter_service.errors import SourceFormatError, SourceUnreachableError


@dataclass(frozen=True, slots=True)
class S3Options:
    """How hard to try: attempts in a row without progress, and how long to wait for one."""

    attempts: int = 4
    backoff_seconds: float = 0.5
    timeout_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep


class S3Object:
    """A `ByteFile`; `client` is boto3's, and whoever gave it closes it."""

    def __init__(
        self, client: Any, bucket: str, key: str, options: S3Options, known: Mapping[str, Any] | None = None
    ) -> None:
        self.label = f"s3://{bucket}/{key}"
        self.stamp: dict[str, Any] = dict(known or {})
        self._client = client
        self._asked = {"Bucket": bucket, "Key": key}
        self._options = options
        self._errors = S3Errors(self.label, client.meta.endpoint_url)

    def blocks(self, offset: int, stop: int | None = None) -> Iterator[bytes]:
        reading = Reading(offset, stop)
        # For failures while a body is read; what comes before it boto3 has tried again by itself.
        yield from persistently(reading, partial(self._one_range, reading), self._wait)

    def _one_range(self, reading: Reading) -> Iterator[bytes]:
        """The bytes of one answer; `reading` is kept at the offset that was reached."""
        answer = self._get(reading)
        if answer is None:
            reading.is_at_end = True
            return
        # The raw stream, of which what has come can be taken; boto3's waits until a block is full.
        with answer["Body"] as raw:
            given = self._given(answer, reading)
            for piece in body(raw, self._options.timeout_seconds):
                reading.offset += len(piece)
                yield piece
        reading.is_at_end = reading.offset == given.total

    def _get(self, reading: Reading) -> Any:
        """The answer to the next range, or None where the object ends before it."""
        asked = {**self._asked, "Range": reading.header}
        if "etag" in self.stamp:
            asked["IfMatch"] = self.stamp["etag"]
        try:
            with self._errors.translated(but=("InvalidRange", "416")):
                return self._client.get_object(**asked)
        except ClientError:
            return None

    def _given(self, answer: Any, reading: Reading) -> ContentRange:
        given = ContentRange.of(answer.get("ContentRange", ""))
        if given.start != reading.offset or given.total is None:
            raise SourceFormatError(
                f"{self.label}: asked for the {reading.header}, the endpoint gave "
                f"{answer['ContentRange']!r}; it does not do ranges as S3 does"
            )
        # Not every server that speaks the API knows If-Match.
        if self.stamp.get("etag", answer["ETag"]) != answer["ETag"]:
            raise self._errors.changed()
        self.stamp = {"etag": answer["ETag"], "size": given.total}
        return given

    def _wait(self, failures: int, error: Exception) -> None:
        if failures >= self._options.attempts:
            raise SourceUnreachableError(
                f"{self.label} cannot be read: {error} ({failures} attempts); check the network and the endpoint"
            ) from error
        self._options.sleep(pause_seconds(self._options.backoff_seconds, failures))
