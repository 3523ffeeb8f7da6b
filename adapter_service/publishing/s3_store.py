"""Versions in a bucket of S3, MinIO or whatever speaks its API: `<prefix>/<adapter>/<key>/<file>`.

Each file is one request with its SHA-256, which the endpoint checks, and `If-None-Match: *`: an
object appears whole or not at all, and none is ever overwritten. (One request takes 5 GB.)
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from adapter_service import adapter_names
from adapter_service.adapters.artifact import KEY_PATTERN, MANIFEST
from adapter_service.errors import StoreError, StoreUnreachableError
from adapter_service.publishing.copying import described, receive
from adapter_service.publishing.manifest import MAX_MANIFEST_BYTES, StoredFile
from adapter_service.publishing.store import Place, Store

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_THERE_ALREADY = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_VERSION = re.compile(rf"(?P<adapter>[^/]+)/(?P<key>{KEY_PATTERN})/{re.escape(MANIFEST)}")
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 3

_ADVICE = {
    "NoSuchBucket": "there is no such bucket; make it, or check `bucket` and `endpoint_url`",
    "NoSuchKey": "the object is gone; push the version again",
    "AccessDenied": "check that these credentials may list, read and write there",
    "403": "check that these credentials may list, read and write there",
    "InvalidAccessKeyId": "check the credentials (`access_key_id`, or what boto3 finds by itself)",
    "SignatureDoesNotMatch": "check the credentials (`secret_access_key`, or what boto3 finds by itself)",
    "ExpiredToken": "get new credentials",
    "RequestTimeTooSkewed": "set this machine's clock",
    "PermanentRedirect": "the bucket lies in another region; give it as `region`",
}


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
            self._client = boto3.session.Session().client(
                "s3",
                config=_config(path_style=endpoint_url is not None),
                endpoint_url=endpoint_url,
                region_name=region,
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret_access_key,
            )

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
                if _code(error) in _MISSING:
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
                if _code(error) in _MISSING:
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
            checked = {"ChecksumSHA256": _base64(sha256)}
        with self._translated():
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key(place, name), Body=body, IfNoneMatch="*", **checked
                )
            except ClientError as error:
                if _code(error) not in _THERE_ALREADY:
                    raise
                # Another machine, or an attempt whose answer was lost: the next attempt compares what is there.
                raise StoreUnreachableError(
                    f"{name} of {place} has come to store {self.name!r} meanwhile; what lies there is compared"
                ) from error

    def _is(self, place: Place, name: str, wanted: StoredFile, found: dict[str, Any]) -> bool:
        if found["ContentLength"] != wanted.size_bytes:
            return False
        if "ChecksumSHA256" in found:
            return bool(found["ChecksumSHA256"] == _base64(wanted.sha256))
        # Copied there by something that left no checksum: the bytes themselves tell.
        with self._translated():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(place, name))
            with closing(answer["Body"]) as body:
                return described(body) == wanted

    def _key(self, place: Place, name: str) -> str:
        return f"{self._prefix}{place.adapter}/{place.key}/{name}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code, metadata = _code(error), error.response.get("ResponseMetadata", {})
            status = metadata.get("HTTPStatusCode", "")
            raise StoreUnreachableError(
                f"store {self.name!r} ({self.shown}) answered {status} {'' if code.isdecimal() else code}".rstrip()
                + f"; {_ADVICE.get(code, 'check `bucket`, `endpoint_url` and `region`, or try later')}"
            ) from error
        except (BotoCoreError, HTTPClientError, ValueError) as error:
            raise StoreUnreachableError(
                f"store {self.name!r} ({self.shown}) cannot be reached: {error}; check `endpoint_url`, the "
                "credentials and the network"
            ) from error


def _config(*, path_style: bool) -> Config:
    return Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=_TIMEOUT_SECONDS,
        read_timeout=_TIMEOUT_SECONDS,
        s3={"addressing_style": "path" if path_style else "auto"},
        # Servers that are not Amazon's know less of checksums; those that are wanted are asked for by name.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="adapter-service",
    )


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
