"""Versions in a bucket of S3, MinIO or whatever speaks its API: `<prefix>/<adapter>/<key>/<file>`.

Each file is one request with its SHA-256, which the endpoint checks, and `If-None-Match: *`: an
object appears whole or not at all, and none is ever overwritten. (One request takes 5 GB.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from adapter_service import adapter_names
from adapter_service.adapters.artifact import KEY_PATTERN, MANIFEST
from adapter_service.errors import StoreError, StoreUnreachableError
from adapter_service.publishing.copying import described, receive
from adapter_service.publishing.manifest import MAX_MANIFEST_BYTES, StoredFile
from adapter_service.publishing.s3_endpoint import (
    MISSING,
    THERE_ALREADY,
    S3Endpoint,
    base64_of,
    code_of,
    translated,
)
from adapter_service.publishing.store import Place, Store

_VERSION = re.compile(rf"(?P<adapter>[^/]+)/(?P<key>{KEY_PATTERN})/{re.escape(MANIFEST)}")


class S3Store(Store):
    """Without keys the credentials are looked for where boto3 always does."""

    def __init__(
        self,
        name: str,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
    ) -> None:
        self.name = name
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.shown = f"s3://{bucket}/{self._prefix}"
        with self._translated():
            self._client = S3Endpoint(endpoint_url, region, access_key_id, secret_access_key).client()

    def places(self, adapter: str | None = None) -> Iterator[Place]:
        below = f"{self._prefix}{adapter}/" if adapter else self._prefix
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below)
        with self._translated():
            for page in pages:
                for item in page.get("Contents", ()):
                    match = _VERSION.fullmatch(item["Key"].removeprefix(self._prefix))
                    if match and adapter_names.fault_of(match["adapter"]) is None:
                        yield Place(match["adapter"], match["key"])

    def manifest(self, place: Place) -> bytes | None:
        with self._translated():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(place, MANIFEST))
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise
            with closing(answer["Body"]) as body:
                content: bytes = body.read(MAX_MANIFEST_BYTES + 1)
                return content

    def has(self, place: Place, name: str, wanted: StoredFile) -> bool:
        with self._translated():
            try:
                found = self._client.head_object(
                    Bucket=self._bucket, Key=self._key(place, name), ChecksumMode="ENABLED"
                )
            except ClientError as error:
                if code_of(error) in MISSING:
                    return False
                raise
        if not self._is(place, name, wanted, found):
            raise StoreError(
                f"store {self.name!r} has another {name} at {place} ({found['ContentLength']} bytes), and nothing is "
                "overwritten; look at what lies there, and remove it if nobody needs it"
            )
        return True

    def put(self, place: Place, name: str, path: Path, wanted: StoredFile) -> None:
        with path.open("rb") as file:
            self._put(place, name, file, wanted.sha256)

    def complete(self, place: Place, manifest: bytes) -> None:
        self._put(place, MANIFEST, manifest, None)

    def get(self, place: Place, name: str, target: Path, limit_bytes: int) -> None:
        with self._translated():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(place, name))
            with closing(answer["Body"]) as body:
                receive(body, target, limit_bytes)

    def _put(self, place: Place, name: str, body: Any, sha256: str | None) -> None:
        checked: dict[str, str] = {"ChecksumAlgorithm": "SHA256"}
        if sha256 is not None:
            checked = {"ChecksumSHA256": base64_of(sha256)}
        with self._translated():
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key(place, name), Body=body, IfNoneMatch="*", **checked
                )
            except ClientError as error:
                if code_of(error) not in THERE_ALREADY:
                    raise
                # Another machine, or an attempt whose answer was lost: the next attempt compares what is there.
                raise StoreUnreachableError(
                    f"{name} of {place} has come to store {self.name!r} meanwhile; what lies there is compared"
                ) from error

    def _is(self, place: Place, name: str, wanted: StoredFile, found: dict[str, Any]) -> bool:
        if found["ContentLength"] != wanted.size_bytes:
            return False
        if "ChecksumSHA256" in found:
            return bool(found["ChecksumSHA256"] == base64_of(wanted.sha256))
        # Copied there by something that left no checksum: the bytes themselves tell.
        with self._translated():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(place, name))
            with closing(answer["Body"]) as body:
                return described(body) == wanted

    def _key(self, place: Place, name: str) -> str:
        return f"{self._prefix}{place.adapter}/{place.key}/{name}"

    def _translated(self) -> AbstractContextManager[None]:
        return translated(f"store {self.name!r} ({self.shown})")
