"""Shards to S3 and what speaks its language: whole with a checksum, or in parts that an interruption leaves there."""

from __future__ import annotations

import hashlib
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from rl.destination import Notes, Outcome, Piece, Place
from rl.errors import DifferentError, RefusedError, UnreachableError

log = logging.getLogger(__name__)

PART_BYTES = 8 << 20  # S3 takes no less than 5 MiB but for the last
_MAX_PARTS = 10_000
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; between two pieces of an answer
# Under `IfNoneMatch="*"`: it is there, or somebody else is putting it there in this moment.
_EXISTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_GONE = {"NoSuchUpload", "NoSuchKey", "NotFound", "404"}
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestTimeTooSkewed", "OperationAborted",
         "InternalError", "ServiceUnavailable", "429"}  # fmt: skip
# The bytes did not come over whole, so that another try may.
_DAMAGED_ON_THE_WAY = {"BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}


class S3Destination:
    """Credentials come from where boto3 looks (AWS_ACCESS_KEY_ID, profiles, roles), never from options."""

    def __init__(
        self,
        bucket: str,
        place: Place,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        part_bytes: int = PART_BYTES,
        attempts: int = 3,
        timeout_seconds: tuple[float, float] = TIMEOUT_SECONDS,
    ) -> None:
        self.place = place
        self.label = f"s3://{bucket}/{place.path.lstrip('/')}" + (f" at {endpoint_url}" if endpoint_url else "")
        self._bucket = bucket
        self._endpoint_url, self._region = endpoint_url or None, region
        self._part_bytes = part_bytes
        self._attempts = attempts
        self._timeout_seconds = timeout_seconds

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        if self._endpoint_url and not _is_address(self._endpoint_url):
            raise RefusedError(
                f"the endpoint {self._endpoint_url!r} is no address; http://host:port or https://host is wanted: "
                "check --s3-endpoint-url, the configuration and S3_ENDPOINT_URL"
            )
        config = Config(
            connect_timeout=self._timeout_seconds[0],
            read_timeout=self._timeout_seconds[1],
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            # A host of one's own (MinIO, a NAS) rarely answers to bucket names as hosts.
            s3={"addressing_style": "path" if self._endpoint_url else "auto"},
        )
        return boto3.session.Session().client(
            "s3", endpoint_url=self._endpoint_url, region_name=self._region, config=config
        )

    def send(self, piece: Piece, notes: Notes) -> Outcome:
        with _plainly(self.label):
            if self._is_there(piece):
                return "already there"
            if piece.bytes <= self._part_bytes:
                return self._put(piece)
            return self._put_in_parts(piece, notes)

    def _is_there(self, piece: Piece) -> bool:
        """Whether the same content has the name; without the right to look, only the writing will tell."""
        try:
            found = self._client.head_object(Bucket=self._bucket, Key=piece.name, ChecksumMode="ENABLED")
        except self._client.exceptions.ClientError as error:
            if _code(error) in _GONE | {"403"}:
                return False
            raise
        noted = found.get("Metadata", {}).get("sha256") == piece.sha256
        same = noted or found.get("ChecksumSHA256") == _base64(bytes.fromhex(piece.sha256))
        if same and found["ContentLength"] == piece.bytes:
            return True
        raise DifferentError(
            f"{self.label}: {piece.name} is there already with another content; nothing is overwritten: use another key"
        )

    def _put(self, piece: Piece) -> Outcome:
        content = piece.path.read_bytes()
        return self._written(
            piece,
            lambda: self._client.put_object(
                Bucket=self._bucket,
                Key=piece.name,
                Body=content,
                ContentType=piece.content_type,
                ChecksumSHA256=_base64(hashlib.sha256(content).digest()),
                Metadata={"sha256": piece.sha256},
                IfNoneMatch="*",
            ),
        )

    def _put_in_parts(self, piece: Piece, notes: Notes) -> Outcome:
        upload_id, there = self._interrupted(piece, notes) or (self._begin(piece), {})
        notes.write(upload_id=upload_id)
        where = {"Bucket": self._bucket, "Key": piece.name, "UploadId": upload_id}
        parts = []
        for number, content in enumerate(self._contents(piece), 1):
            checksum = _base64(hashlib.sha256(content).digest())
            part = there.get(number)
            if part is None or not _is_of(part, content, checksum):
                part = self._client.upload_part(**where, PartNumber=number, Body=content, ChecksumSHA256=checksum)
            parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": checksum})
        return self._complete(piece, where, parts)

    def _complete(self, piece: Piece, where: Mapping[str, str], parts: Sequence[Mapping[str, Any]]) -> Outcome:
        """Make one file of the parts; of those whose name was taken meanwhile none stay, for they cost like a file."""
        try:
            outcome = self._written(
                piece,
                lambda: self._client.complete_multipart_upload(
                    **where, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                ),
            )
        except DifferentError:
            self._abort(where)
            raise
        if outcome == "already there":
            self._abort(where)
        return outcome

    def _abort(self, where: Mapping[str, str]) -> None:
        with suppress(self._client.exceptions.ClientError):  # it is gone, or may not be ended
            self._client.abort_multipart_upload(**where)

    def _contents(self, piece: Piece) -> Iterator[bytes]:
        size = max(self._part_bytes, -(-piece.bytes // _MAX_PARTS))
        with piece.path.open("rb") as file:
            while content := file.read(size):
                yield content

    def _begin(self, piece: Piece) -> str:
        begun = self._client.create_multipart_upload(
            Bucket=self._bucket,
            Key=piece.name,
            ContentType=piece.content_type,
            ChecksumAlgorithm="SHA256",
            Metadata={"sha256": piece.sha256},
        )
        return str(begun["UploadId"])

    def _interrupted(self, piece: Piece, notes: Notes) -> tuple[str, dict[int, Any]] | None:
        """An upload of this piece that was begun and not ended, and the parts of it that arrived."""
        if noted := notes.read().get("upload_id"):
            there = self._parts_of(piece, noted)
            return None if there is None else (noted, there)
        # Noting it may have been what did not happen any more.
        for upload_id in self._begun(piece):
            there = self._parts_of(piece, upload_id)
            if there and self._are_of(there, piece):
                return upload_id, there
        return None

    def _parts_of(self, piece: Piece, upload_id: str) -> dict[int, Any] | None:
        try:
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=piece.name, UploadId=upload_id
            )
            return {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}
        except self._client.exceptions.ClientError as error:
            if _code(error) not in _GONE:
                raise
            return None

    def _are_of(self, there: Mapping[int, Any], piece: Piece) -> bool:
        """Whether all parts hold what `piece` does: else somebody else's upload to the same key goes on there."""
        ours = {
            number
            for number, content in enumerate(self._contents(piece), 1)
            if number in there and _is_of(there[number], content, _base64(hashlib.sha256(content).digest()))
        }
        return ours == there.keys()

    def _begun(self, piece: Piece) -> list[str]:
        """Uploads to this key that the storage knows of, newest first; none where it may not be asked."""
        try:
            found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=piece.name)
        except self._client.exceptions.ClientError as error:
            log.info("uploads that were begun cannot be listed (%s)", _code(error), extra={"action": "not_listed"})
            return []
        uploads = [upload for upload in found.get("Uploads", ()) if upload["Key"] == piece.name]
        return [str(upload["UploadId"]) for upload in sorted(uploads, key=lambda up: up["Initiated"], reverse=True)]

    def _written(self, piece: Piece, write: Callable[[], Any]) -> Outcome:
        """Write; a name that is taken, or an upload that is gone, may be an earlier try whose answer was lost."""
        try:
            write()
        except self._client.exceptions.ClientError as error:
            if _code(error) not in _EXISTS | _GONE:
                raise
            if self._is_there(piece):
                return "already there"
            if _code(error) in _GONE:
                raise UnreachableError(
                    f"{self.label}: the upload of {piece.name} was ended by somebody else"
                ) from error
            raise
        return "sent"


def _is_address(endpoint_url: str) -> bool:
    try:
        parts = urlsplit(endpoint_url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_of(part: Mapping[str, Any], content: bytes, checksum: str) -> bool:
    """Whether a part that arrived holds `content`; by MD5 where the storage lists no checksums."""
    if part["Size"] != len(content):
        return False
    if "ChecksumSHA256" in part:
        return bool(part["ChecksumSHA256"] == checksum)
    return bool(part["ETag"].strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest())


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _plainly(label: str) -> Iterator[None]:
    """botocore's errors as ours."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _error_of(error, label) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise RefusedError(
            f"{label}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role of AWS"
        ) from error
    except (
        exceptions.ParamValidationError,
        exceptions.NoRegionError,
        exceptions.InvalidRegionError,
        exceptions.ProfileNotFound,
    ) as error:
        raise RefusedError(f"{label}: {error}") from error
    except (exceptions.BotoCoreError, OSError) as error:
        raise UnreachableError(f"{label} cannot be reached ({type(error).__name__})") from error


def _error_of(error: Any, label: str) -> Exception:
    code = _code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    is_theirs = (status >= 500 and code != "NotImplemented") or status < 400
    if code in _BUSY | _DAMAGED_ON_THE_WAY or status in {408, 409, 429} or is_theirs:
        return UnreachableError(f"{label}: {code or status}; it may take it at another try")
    hint = {
        "NoSuchBucket": "there is no such bucket; make it, or name another",
        "AccessDenied": "these credentials may not write there; give them s3:PutObject",
        "NotImplemented": "the storage knows no writing under conditions (If-None-Match); use a newer version of it",
        "PreconditionFailed": "something has that name and may not be looked at; use another key",
        "InvalidAccessKeyId": "the access key is not known; check AWS_ACCESS_KEY_ID",
        "SignatureDoesNotMatch": "the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY",
    }.get(code, f"refused with {code or status}; the storage's own documentation says what that means")
    return RefusedError(f"{label}: {hint}")
