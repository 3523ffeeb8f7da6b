"""Artifacts in a bucket of S3, MinIO or whatever speaks its API, fetched by presigned URLs.

One request with `If-None-Match: *` and the SHA-256, which the endpoint checks, puts an object there. A URL is
signed for the host by which nodes reach the bucket, which may be another than this service's: the host is
part of what is signed. (With temporary credentials a URL ends when they do.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import quote

from botocore.exceptions import ClientError

from adapter_service.delivery.artifact_store import FILENAME, MEDIA_TYPE, Artifact, ArtifactStore, check_scope
from adapter_service.errors import StoreError, StoreUnreachableError, UnknownArtifactError
from adapter_service.publishing.copying import described
from adapter_service.publishing.manifest import StoredFile
from adapter_service.publishing.s3_endpoint import (
    MISSING,
    THERE_ALREADY,
    S3Endpoint,
    base64_of,
    code_of,
    translated,
)
from adapter_service.settings.command_sections import MOST_URL_SECONDS

# At DEBUG it writes down every signature.
logging.getLogger("botocore.auth").setLevel(logging.INFO)


class S3Artifacts(ArtifactStore):
    """`public_url` is the endpoint as nodes reach it; None is the one that this service asks itself."""

    def __init__(
        self,
        bucket: str,
        endpoint: S3Endpoint,
        *,
        prefix: str = "",
        public_url: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.prefix = prefix.strip("/")
        self.shown = f"s3://{bucket}/{self.prefix}"
        self._bucket = bucket
        self._endpoint = endpoint
        self._public_url = public_url
        self._now = now

    def put(self, key: str, artifact: Artifact) -> bool:
        with self._translated():
            try:
                with artifact.path.open("rb") as file:
                    self._client.put_object(
                        Bucket=self._bucket,
                        Key=key,
                        Body=file,
                        IfNoneMatch="*",
                        ChecksumAlgorithm="SHA256",
                        ChecksumSHA256=base64_of(artifact.sha256),
                        ContentType=MEDIA_TYPE,
                        # Headers are ASCII.
                        Metadata={name: quote(text, safe="/:@") for name, text in artifact.metadata.items()},
                    )
            except ClientError as error:
                if code_of(error) not in THERE_ALREADY:
                    raise
                return self._is_there(key, artifact)
        return True

    def delete(self, key: str) -> None:
        with self._translated():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def url(self, key: str, *, node_id: str, expires_at: datetime) -> str:
        check_scope(key, node_id)
        with self._translated():
            client = self._public_client  # made before the time is taken
        seconds = math.floor((expires_at - self._now()).total_seconds())
        if seconds <= 0:
            raise UnknownArtifactError(
                f"the adapter was there until {expires_at.isoformat()}; post the commands again to have it published"
            )
        if seconds > MOST_URL_SECONDS:  # boto3 signs longer ones without a word, and no server takes them
            raise StoreError(f"a URL for {seconds} seconds was wanted; S3 signs {MOST_URL_SECONDS} at most")
        with self._translated():
            url: str = client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentDisposition": f'attachment; filename="{FILENAME}"',
                },
                ExpiresIn=seconds,
            )
        return url

    def _is_there(self, key: str, artifact: Artifact) -> bool:
        """Whether what lies there is the same, byte for byte."""
        try:
            found = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if code_of(error) not in MISSING:
                raise
            # Another request for the same object was under way, or it is being deleted.
            raise StoreUnreachableError(f"{self.shown} is busy with this object; it is sent again") from error
        if found["ContentLength"] != artifact.size_bytes:
            return False
        if "ChecksumSHA256" in found:
            return bool(found["ChecksumSHA256"] == base64_of(artifact.sha256))
        # Copied there by something that left no checksum: the bytes themselves tell.
        answer = self._client.get_object(Bucket=self._bucket, Key=key)
        with closing(answer["Body"]) as body:
            return described(body) == StoredFile(size_bytes=artifact.size_bytes, sha256=artifact.sha256)

    # boto3 takes most of a second to make a client, which a service that delivers nothing need not wait for.
    @cached_property
    def _client(self) -> Any:
        return self._endpoint.client()

    @cached_property
    def _public_client(self) -> Any:
        public = replace(self._endpoint, endpoint_url=self._public_url or self._endpoint.endpoint_url)
        options: dict[str, Any] = {"signature_version": "s3v4"}  # else boto3 signs the older way in some regions
        if public.endpoint_url is None:
            # Left alone, boto3 signs for s3.amazonaws.com, which sends readers on to the bucket's region: another
            # host than was signed. A name with a dot is in no certificate.
            options["s3"] = {"addressing_style": "path" if "." in self._bucket else "virtual"}
        return public.client(**options)

    def _translated(self) -> AbstractContextManager[None]:
        return translated(f"the artifacts' store ({self.shown})")
