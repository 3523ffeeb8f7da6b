"""What a job may become: every pair of statuses, and ids that sort and cannot be guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from adapter_service.errors import WrongJobStateError
from adapter_service.jobs.job import Job, JobStatus, is_job_id, new_job_id

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

MOVES = {
    ("queued", "running"),
    ("queued", "paused"),
    ("queued", "cancelled"),
    ("paused", "queued"),
    ("paused", "cancelled"),
    ("running", "queued"),
    ("running", "paused"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
}


def job_in(status: JobStatus) -> Job:
    return Job("job_1", "hindi", {}, "trace", NOON, status)


@pytest.mark.parametrize(("before", "after"), list(product(JobStatus, JobStatus)))
def test_every_pair_of_statuses_is_a_move_or_an_error(before: JobStatus, after: JobStatus) -> None:
    job = job_in(before)
    if (before, after) in MOVES:
        assert job.moved(after, attempt=2) == Job("job_1", "hindi", {}, "trace", NOON, after, attempt=2)
    else:
        with pytest.raises(WrongJobStateError, match=f"is {before} and cannot become {after}; it can become: "):
            job.moved(after)


def test_finished_means_that_nothing_follows() -> None:
    assert {status for status in JobStatus if status.finished} == {"succeeded", "failed", "cancelled"}


def test_ids_sort_by_time_and_differ_within_a_millisecond() -> None:
    times = [NOON + timedelta(milliseconds=n) for n in range(50)]
    ids = [new_job_id(time) for time in times]
    assert ids == sorted(ids)
    assert len({new_job_id(NOON) for _ in range(100)}) == 100
    assert all(is_job_id(job_id) for job_id in ids)


@pytest.mark.parametrize("text", ["", "job_", "job_1", f"job_{'0' * 26}/..", f"job_{'0' * 25}U", f"job_{'0' * 26}\n"])
def test_what_does_not_look_like_an_id_is_none(text: str) -> None:
    assert not is_job_id(text)
