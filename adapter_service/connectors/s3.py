"""The kind `s3`: one object, or all below a prefix, from S3, MinIO or any endpoint that speaks its API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Self

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from pydantic import Field, model_validator

from adapter_service.connectors.base import UNKNOWN_FORMAT, Cursor, Record
from adapter_service.connectors.files import FileSpec, read_file
from adapter_service.connectors.outbound import refuse_private
from adapter_service.connectors.registry import register
from adapter_service.connectors.s3_errors import S3Errors
from adapter_service.connectors.s3_object import S3Object, S3Options
from adapter_service.errors import SourceFormatError, SourceUnreachableError

# As many keys as one answer may have.
PAGE_KEYS = 1000
# Reads the API's description, 60 ms for each client if it did not keep it.
_API = botocore.session.get_session().get_component("data_loader")


class S3Spec(FileSpec):
    """Without `access_key_id` the credentials are looked for where boto3 always does.

    (Variables AWS_…, ~/.aws, the machine's role; `anonymous: true` uses none, for public buckets.)
    `allow_private: false` refuses an endpoint at a private address.
    """

    bucket: str = Field(min_length=1)
    key: str = ""
    prefix: str | None = Field(default=None, description="all objects below it, in the order of their keys; `` for all")
    endpoint_url: str = ""
    region: str = ""
    path_style: bool | None = Field(default=None, description="bucket in the path; else with an `endpoint_url` only")
    access_key_id: str = Field(default="", description="as ${VAR}")
    secret_access_key: str = Field(default="", description="as ${VAR}")
    session_token: str = Field(default="", description="as ${VAR}")
    anonymous: bool = False
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    retry_attempts: int = Field(default=3, ge=0, le=20)
    backoff_seconds: float = Field(default=0.5, ge=0, le=30)
    allow_private: bool = True

    @model_validator(mode="after")
    def _names_objects(self) -> Self:
        if bool(self.key) == (self.prefix is not None):
            raise ValueError("give one object as `key`, or many by the beginning of their keys as `prefix`")
        return self

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("`access_key_id` and `secret_access_key` go together; give both or neither")
        if self.anonymous and self.access_key_id:
            raise ValueError("`anonymous: true` uses no credentials; leave it out, or `access_key_id`")
        return self

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}/{self.key or self.prefix}"


@register("s3", spec=S3Spec)
class S3Reader:
    """Reads objects in ranges; of a bucket no more than one page of its keys is held."""

    def __init__(self, spec: S3Spec, name: str) -> None:
        self._spec = spec
        self._name = name

    def check(self) -> str:
        with closing(self._connected()) as client:
            if self._spec.key:
                found = self._object(client, self._spec.key)
                next(found.blocks(0), None)
                size = found.stamp.get("size", 0)
                return f"{found.label}, {size} bytes, {self._spec.required_format_of(self._spec.key)}"
            keys = self._keys(client, after=None)
            first = next(key for key in keys if self._spec.format_of(key))
            return f"{self._spec.address}, first {first} ({self._spec.required_format_of(first)})"

    def records(self, after: Cursor | None) -> Iterator[Record]:
        with closing(self._connected()) as client:
            if self._spec.key:
                yield from self._records_of(client, self._spec.key, after)
                return
            reached = after["key"] if after else None
            if reached is not None:
                yield from self._records_of(client, reached, after)
            for key in self._keys(client, after=reached):
                yield from self._records_of(client, key, None)

    def _records_of(self, client: Any, key: str, after: Cursor | None) -> Iterator[Record]:
        found = self._object(client, key, after)
        # One key that was asked for by name has to have a format; among many there may be others.
        if not self._spec.key and self._spec.format_of(key) is None:
            yield Record({"key": key}, f"{self._name}:{found.label}", None, UNKNOWN_FORMAT)
            return
        kind = self._spec.required_format_of(key)
        yield from read_file(found, kind, self._spec, source=self._name, after=after, extra={"key": key})

    def _keys(self, client: Any, *, after: str | None) -> Iterator[str]:
        """Keys of objects that hold something, in their order, page by page."""
        last, readable = after, after is not None
        for key in self._listed(client, after):
            if last is not None and key <= last:
                raise SourceFormatError(
                    f"{self._spec.address}: the endpoint lists {key!r} after {last!r}, not in the order of the keys, "
                    "so a stream could not be resumed; name the objects one by one with `key`"
                )
            last, readable = key, readable or self._spec.format_of(key) is not None
            yield key
        if not readable:
            found = f"{last!r} and others of no known format" if last else "nothing"
            raise SourceUnreachableError(
                f"{self._spec.address}: there is {found}; check `prefix`, which is the beginning of whole keys "
                "without a leading '/', or say `file_format`"
            )

    def _listed(self, client: Any, after: str | None) -> Iterator[str]:
        errors = S3Errors(self._spec.address, client.meta.endpoint_url)
        asked = {"Bucket": self._spec.bucket, "Prefix": self._spec.prefix, **({"StartAfter": after} if after else {})}
        config = {"PageSize": PAGE_KEYS}
        pages = iter(client.get_paginator("list_objects_v2").paginate(**asked, PaginationConfig=config))
        while True:
            with errors.translated():
                page = next(pages, None)
            if page is None:
                return
            yield from (item["Key"] for item in page.get("Contents", ()) if item["Size"])

    def _object(self, client: Any, key: str, after: Cursor | None = None) -> S3Object:
        spec = self._spec
        options = S3Options(
            attempts=spec.retry_attempts + 1,
            backoff_seconds=spec.backoff_seconds,
            timeout_seconds=spec.timeout_seconds,
        )
        return S3Object(client, spec.bucket, key, options, after["stamp"] if after else None)

    def _connected(self) -> Any:
        """A client of its own for each reading: boto3's default session is not for several threads."""
        try:
            client = _client(self._spec)
        except (BotoCoreError, ValueError) as error:
            raise SourceUnreachableError(
                f"{self._spec.address}: {error}; check `endpoint_url`, `region` and the AWS_… variables"
            ) from error
        if not self._spec.allow_private:
            refuse_private(client.meta.endpoint_url)
        return client


def _client(spec: S3Spec) -> Any:
    is_path_style = bool(spec.endpoint_url) if spec.path_style is None else spec.path_style
    config = Config(
        retries={"mode": "standard", "total_max_attempts": spec.retry_attempts + 1},
        connect_timeout=spec.timeout_seconds,
        read_timeout=spec.timeout_seconds,
        signature_version=UNSIGNED if spec.anonymous else None,
        s3={"addressing_style": "path" if is_path_style else "auto"},
        # Servers that are not Amazon's know less of checksums, and a range has none.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="adapter-service",
    )
    session = botocore.session.get_session()
    session.register_component("data_loader", _API)
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        config=config,
        endpoint_url=spec.endpoint_url or None,
        region_name=spec.region or None,
        aws_access_key_id=spec.access_key_id or None,
        aws_secret_access_key=spec.secret_access_key or None,
        aws_session_token=spec.session_token or None,
    )
