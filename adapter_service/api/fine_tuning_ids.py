"""Jobs and their events have ids of another form under /v1: `ftjob-…` there is `job_…` here."""

from __future__ import annotations

import re

from adapter_service.errors import InvalidParameterError, UnknownJobError

_JOB, _THEIR_JOB, _THEIR_EVENT = "job_", "ftjob-", "ftevent-"
_JOB_IN_TEXT = re.compile(rf"\b{_JOB}(?=[0-9A-Z]{{26}}\b)")
_LARGEST = 2**63 - 1


def shown_job_id(job_id: str) -> str:
    return _THEIR_JOB + job_id.removeprefix(_JOB)


def with_shown_ids(text: str) -> str:
    """`text`, which the parts below `api/` wrote, with every job's id as it is here."""
    return _JOB_IN_TEXT.sub(_THEIR_JOB, text)


def job_id_of(shown: str) -> str:
    """Our id of a job that is `ftjob-…` here.

    Raises:
        UnknownJobError: it has another form, which no job's has.
    """
    if not shown.startswith(_THEIR_JOB):
        raise UnknownJobError(
            f"no fine-tuning job {shown[:100]!r}; their ids begin with {_THEIR_JOB!r}, and GET /v1/fine_tuning/jobs "
            "lists them"
        )
    return _JOB + shown.removeprefix(_THEIR_JOB)


def unknown_job(shown: str) -> UnknownJobError:
    return UnknownJobError(f"no fine-tuning job {shown[:100]!r}; GET /v1/fine_tuning/jobs lists what there is")


def shown_event_id(number: int) -> str:
    return f"{_THEIR_EVENT}{number}"


def event_number(shown: str | None) -> int | None:
    """The number of an event that is `ftevent-…` here."""
    if shown is None:
        return None
    digits = shown.removeprefix(_THEIR_EVENT)
    if digits == shown or not digits.isascii() or not digits.isdecimal() or int(digits) > _LARGEST:
        raise InvalidParameterError(
            f"'after' is {shown!r}; an event's id is wanted, such as {_THEIR_EVENT}17: take that of the last one",
            parameter="after",
        )
    return int(digits)
