"""Every error that this service raises on purpose, as one tree.

    AdapterServiceError
    ├── InvalidInputError            the caller can mend it
    │   ├── SettingsError            adapter_config.yaml, mcp_connectors.yml, ADAPTER_* variables
    │   ├── InvalidParameterError    a field or option of one request
    │   ├── PromptTooLongError
    │   ├── InvalidFileError         a file that was sent to be trained on and cannot be
    │   ├── InvalidSchemaError       a node's command schemas, with every fault in them
    │   ├── ExpiredRequestError      nobody waits for what it asks any more
    │   ├── DoesNotFitError          a job that this machine has not the memory for
    │   └── InvalidSampleError       one record of a source (counted, not fatal by itself)
    ├── NotFoundError
    │   ├── UnknownJobError
    │   ├── UnknownAdapterError
    │   ├── UnknownFileError
    │   ├── UnknownSourceError
    │   ├── UnknownNodeError         a home hub's node that has posted no commands
    │   ├── UnknownArtifactError     it was fetched, has expired, or never was
    │   └── UnknownKeyError
    ├── ConflictError                right request, wrong moment
    │   ├── WrongJobStateError
    │   ├── NoVersionToRollBackError
    │   ├── DuplicateRequestError    same idempotency key, another body
    │   ├── TooManyPinsError         as many adapters are pinned as may be
    │   ├── FileInUseError           a job that is not finished trains on it
    │   ├── DamagedJobError          its row in the state database cannot be read
    │   └── SupersededError          another attempt or decision came first; what was known is stale
    ├── NotAuthenticatedError        from a peer of whom nothing is known
    ├── ForbiddenError               from a peer that may not
    │   └── BadLinkError             a signed URL that is altered, or too old
    ├── BusyError                    a bounded queue is full
    │   └── RateLimitedError         too many requests, or jobs, in too short a time
    ├── OverloadedError              no memory is left to answer with
    ├── NotReadyError                the base still loads, or could not be loaded
    ├── BackendError                 a server of others that answers here (llama.cpp, vLLM) says nonsense, or cannot
    │   ├── BackendRefusalError      it says no to what it was asked
    │   └── BackendUnreachableError  it does not answer, or not now
    ├── SourceError                  a stream cannot be read
    │   ├── SourceUnreachableError
    │   ├── SourceFormatError        the whole source is not what the configuration says
    │   ├── EmptySourceError
    │   └── TooManyBadRecordsError
    ├── BaseModelError               a base cannot be found, read or quantized
    ├── AdapterFormatError           an adapter folder is not one we serve
    ├── AdapterTooLargeError         an adapter alone is more than may be loaded in all
    ├── NonFiniteLogitsError         an answer's next token cannot be computed; other answers go on
    ├── SlowReaderError              nobody took what there was of an answer, for too long
    ├── ToolCallFormatError          an answer is no call of a tool, or only the beginning of one
    ├── StoreError                   a place for versions says no, and will again; so trying again helps nobody
    │   └── StoreUnreachableError    it does not answer, or not now
    ├── NoticeError                  a broker or a callback's address did not take a notice; it is sent again
    │   └── BrokerAwayError          it takes none at all: not there, or we may not in
    ├── DatabaseError                the state database cannot be opened by this version
    ├── StorageError                 the disk or the state database takes nothing: locked, read-only, broken
    │   └── StorageFullError
    ├── TrainingError
    │   ├── NonFiniteLossError
    │   ├── NothingToLearnError      zero supervised tokens or zero samples
    │   └── OutOfMemoryError         while it ran, for one sample alone
    ├── ServiceAnswerError           a service that we ask does not answer as it should
    ├── RunFailedError               `make run` came to no result
    └── JobCancelledError            a job stops before its end, as it was asked: for good, for a while, by a shutdown

Adding one: write the class here with a `code` that no other has, give it a status in
`api/errors.py`, and the test over all of them (`tests/test_errors.py`) tells what is missing.

A message has three parts: the value found, what is allowed, and what to do next.
No HTTP in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal


class AdapterServiceError(Exception):
    """Root of the tree; `code` is stable and is what programs compare."""

    code: ClassVar[str] = "adapter_service_error"


class InvalidInputError(AdapterServiceError):
    code = "invalid_input"


class SettingsError(InvalidInputError):
    code = "invalid_settings"


class InvalidParameterError(InvalidInputError):
    """`parameter` is the name as the caller wrote it."""

    code = "invalid_parameter"

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class PromptTooLongError(InvalidInputError):
    code = "prompt_too_long"


class InvalidFileError(InvalidInputError):
    code = "invalid_file"


FaultCode = Literal[
    "missing_field",
    "invalid_type",
    "unknown_field",
    "duplicate_name",
    "too_few_examples",
    "too_many_examples",
    "multiple_primary",
    "undeclared_parameter",
    "not_in_enum",
    "too_long",
    "too_large",
    "unknown_base_model",
    "out_of_range",
    "hash_mismatch",
]


@dataclass(frozen=True, slots=True)
class SchemaFault:
    """`path` is where in what was sent, such as `command_schema[2].examples[0]`; `code` is what programs compare."""

    path: str
    code: FaultCode
    message: str


class InvalidSchemaError(InvalidInputError):
    """`faults` are all there are, in the order of what was sent."""

    code = "invalid_schema"

    def __init__(self, faults: Sequence[SchemaFault]) -> None:
        first = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{first.path}: {first.message}{more}")
        self.faults = tuple(faults)


class ExpiredRequestError(InvalidInputError):
    code = "expired"


class DoesNotFitError(InvalidInputError):
    code = "does_not_fit"


class InvalidSampleError(InvalidInputError):
    code = "invalid_sample"


class NotFoundError(AdapterServiceError):
    code = "not_found"


class UnknownJobError(NotFoundError):
    code = "unknown_job"


class UnknownAdapterError(NotFoundError):
    code = "unknown_adapter"


class UnknownFileError(NotFoundError):
    code = "unknown_file"


class UnknownSourceError(NotFoundError):
    code = "unknown_source"


class UnknownNodeError(NotFoundError):
    code = "unknown_node"


class UnknownArtifactError(NotFoundError):
    code = "unknown_artifact"


class UnknownKeyError(NotFoundError):
    code = "unknown_key"


class ConflictError(AdapterServiceError):
    code = "conflict"


class WrongJobStateError(ConflictError):
    code = "wrong_job_state"


class NoVersionToRollBackError(ConflictError):
    code = "no_version_to_roll_back"


class DuplicateRequestError(ConflictError):
    code = "duplicate_request"


class TooManyPinsError(ConflictError):
    code = "too_many_pins"


class FileInUseError(ConflictError):
    code = "file_in_use"


class DamagedJobError(ConflictError):
    code = "damaged_job"


class SupersededError(ConflictError):
    code = "superseded"


class NotAuthenticatedError(AdapterServiceError):
    code = "not_authenticated"


class ForbiddenError(AdapterServiceError):
    code = "forbidden"


class BadLinkError(ForbiddenError):
    code = "bad_link"


class BusyError(AdapterServiceError):
    """`retry_after_seconds` is when another try makes sense."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RateLimitedError(BusyError):
    code = "rate_limited"


class OverloadedError(AdapterServiceError):
    code = "overloaded"


class NotReadyError(AdapterServiceError):
    code = "not_ready"


class BackendError(AdapterServiceError):
    code = "backend_error"


class BackendRefusalError(BackendError):
    """`reason`: what was asked is `invalid`, or of something `unknown` there; anything else is `other`."""

    code = "backend_refused"

    def __init__(self, message: str, reason: Literal["invalid", "unknown", "other"] = "other") -> None:
        super().__init__(message)
        self.reason = reason


class BackendUnreachableError(BackendError):
    code = "backend_unreachable"


class SourceError(AdapterServiceError):
    code = "source_error"


class SourceUnreachableError(SourceError):
    code = "source_unreachable"


class SourceFormatError(SourceError):
    code = "source_format"


class EmptySourceError(SourceError):
    code = "empty_source"


class TooManyBadRecordsError(SourceError):
    code = "too_many_bad_records"


class BaseModelError(AdapterServiceError):
    code = "base_model_error"


class AdapterFormatError(AdapterServiceError):
    code = "adapter_format"


class AdapterTooLargeError(AdapterServiceError):
    code = "adapter_too_large"


class NonFiniteLogitsError(AdapterServiceError):
    code = "non_finite_logits"


class SlowReaderError(AdapterServiceError):
    code = "slow_reader"


class ToolCallFormatError(AdapterServiceError):
    code = "tool_call_format"


class StoreError(AdapterServiceError):
    code = "store_error"


class StoreUnreachableError(StoreError):
    code = "store_unreachable"


class NoticeError(AdapterServiceError):
    code = "notice_not_taken"


class BrokerAwayError(NoticeError):
    code = "broker_away"


class DatabaseError(AdapterServiceError):
    code = "database_error"


class StorageError(AdapterServiceError):
    """`storage_faults.py` says which errors of the system are one."""

    code = "storage_error"


class StorageFullError(StorageError):
    code = "storage_full"


class TrainingError(AdapterServiceError):
    code = "training_error"


class NonFiniteLossError(TrainingError):
    code = "non_finite_loss"


class NothingToLearnError(TrainingError):
    code = "nothing_to_learn"


class OutOfMemoryError(TrainingError):
    code = "out_of_memory"


class ServiceAnswerError(AdapterServiceError):
    code = "service_answer"


class RunFailedError(AdapterServiceError):
    code = "run_failed"


class JobCancelledError(AdapterServiceError):
    code = "job_cancelled"
