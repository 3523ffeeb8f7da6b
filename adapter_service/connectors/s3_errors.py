"""What boto3 and the endpoint say went wrong, as errors of a source with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from adapter_service.errors import SourceError, SourceFormatError, SourceUnreachableError

_CREDENTIALS = "check the credentials (`access_key_id`, or the AWS_… variables that boto3 reads)"
_OLD_CREDENTIALS = "the credentials have run out: get new ones"
_REGION = "the bucket lies in another region: give it as `region`"

# The endpoint's code → what to do; those that are only a status come from HEAD and plainer servers.
_ADVICE = {
    "NoSuchBucket": "there is no such bucket; check `bucket`, and `endpoint_url` where it is not Amazon's",
    "NoSuchKey": "there is no such object; check `key`, which has no leading '/'",
    "404": "there is no such bucket or object; check `bucket` and `key`",
    "AccessDenied": "check that these credentials may read it (s3:GetObject, for a prefix s3:ListBucket); "
    "without s3:ListBucket this is also the answer for an object that is not there",
    "403": "check that these credentials may read it (s3:GetObject, for a prefix s3:ListBucket)",
    "AllAccessDisabled": "the bucket is closed to everybody",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "ExpiredToken": _OLD_CREDENTIALS,
    "ExpiredTokenException": _OLD_CREDENTIALS,
    "RequestTimeTooSkewed": "set this machine's clock",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "InvalidObjectState": "the object is archived; restore it first",
    "InvalidBucketName": "that is no name of a bucket; check `bucket`",
}
_CHANGED = frozenset({"PreconditionFailed", "412"})


@dataclass(frozen=True, slots=True)
class S3Errors:
    """Speaks of the object or prefix `label` at `endpoint`."""

    label: str
    endpoint: str

    @contextmanager
    def translated(self, *, but: tuple[str, ...] = ()) -> Iterator[None]:
        """Raise errors of boto3 as ours; those with a code of `but` are let through as they are."""
        try:
            yield
        except ClientError as error:
            if _code(error) in but:
                raise
            raise self._of_answer(error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise SourceUnreachableError(
                f"{self.label}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `access_key_id` and "
                "`secret_access_key` as ${VAR}, or `anonymous: true` for a public bucket"
            ) from error
        except ParamValidationError as error:
            raise SourceUnreachableError(f"{self.label}: {error}; check `bucket` and `key`") from error
        except BotoCoreError as error:
            raise SourceUnreachableError(
                f"{self.label} cannot be read: {error}; check `endpoint_url`, the network and whether the server runs"
            ) from error

    def changed(self) -> SourceFormatError:
        """The object is another than the one in which a place was noted."""
        return SourceFormatError(
            f"{self.label} has changed since the place in it was noted: it has another ETag; "
            "start again from the beginning"
        )

    def _of_answer(self, error: ClientError) -> SourceError:
        code = _code(error)
        if code in _CHANGED:
            return self.changed()
        metadata = error.response.get("ResponseMetadata", {})
        attempts = metadata.get("RetryAttempts", 0) + 1
        answer = f"{metadata.get('HTTPStatusCode', '')} {'' if code.isdecimal() else code}".strip()
        advice = _ADVICE.get(code, "check `bucket`, `endpoint_url` and `region`, or try later")
        if advice is _REGION and (region := metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region")):
            advice = f"{advice} ({region})"
        times = f" ({attempts} attempts)" if attempts > 1 else ""
        return SourceUnreachableError(f"{self.label}: {self.endpoint} answered {answer}{times}; {advice}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "") or "no code")
