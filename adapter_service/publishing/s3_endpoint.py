"""What everything here that speaks to S3, MinIO and the like has in common: a client, and its errors as ours."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from adapter_service.errors import StoreUnreachableError

MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
THERE_ALREADY = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
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


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """Where a bucket is asked for, and by whom; without keys boto3 looks for them where it always does."""

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)

    def client(self, **options: Any) -> Any:
        """A client of boto3's, safe to share between threads; `options` are more of botocore's `Config`."""
        return boto3.session.Session().client(
            "s3",
            config=_config(path_style=self.endpoint_url is not None).merge(Config(**options)),
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
        )


@contextmanager
def translated(who: str) -> Iterator[None]:
    """What boto3 raises as StoreUnreachableError; `who` is the store, as people know it."""
    try:
        yield
    except ClientError as error:
        code, metadata = code_of(error), error.response.get("ResponseMetadata", {})
        status = metadata.get("HTTPStatusCode", "")
        raise StoreUnreachableError(
            f"{who} answered {status} {'' if code.isdecimal() else code}".rstrip()
            + f"; {_ADVICE.get(code, 'check `bucket`, `endpoint_url` and `region`, or try later')}"
        ) from error
    except (BotoCoreError, HTTPClientError, ValueError) as error:
        raise StoreUnreachableError(
            f"{who} cannot be reached: {error}; check `endpoint_url`, the credentials and the network"
        ) from error


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def base64_of(sha256: str) -> str:
    """A hash in hex as S3 has it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


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
