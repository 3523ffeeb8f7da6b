"""The job table, move by move."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapter_service.database import Database
from adapter_service.errors import (
    BusyError,
    DamagedJobError,
    DuplicateRequestError,
    SupersededError,
    UnknownJobError,
    WrongJobStateError,
)
from adapter_service.jobs.job import Job, JobStatus, Phase
from adapter_service.jobs.store import JobStore


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "jobs.db")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database, Clock())


def submit(store: JobStore, adapter: str = "hindi", **options: Any) -> Job:
    request = {"source": "corpus", "learning_rate": 1e-3, "note": "हिन्दी"}
    return store.create(request, adapter=adapter, trace_id="t-1", **{"queue_limit": 16, **options})


def claim(store: JobStore) -> Job:
    job = store.claim_next()
    assert job is not None
    return job


def test_a_submitted_job_is_queued_and_can_be_read_back(store: JobStore) -> None:
    job = submit(store)
    assert store.get(job.id) == job
    assert (job.status, job.attempt, job.trace_id) == (JobStatus.QUEUED, 0, "t-1")
    assert job.request["note"] == "हिन्दी"
    assert job.created_at.utcoffset() == timedelta(0)


def test_an_unknown_job_says_where_ids_come_from(store: JobStore) -> None:
    with pytest.raises(UnknownJobError, match=r"no job 'job_x'.*`job_id`"):
        store.get("job_x")


def test_jobs_are_listed_newest_first_and_by_status(store: JobStore) -> None:
    first, second = submit(store), submit(store)
    claim(store)
    assert [job.id for job in store.list()] == [second.id, first.id]
    assert [job.id for job in store.list(status=JobStatus.QUEUED)] == [second.id]
    assert len(store.list(limit=1)) == 1


def test_a_full_queue_is_busy_until_one_starts(store: JobStore) -> None:
    submit(store, queue_limit=1)
    with pytest.raises(BusyError, match="1 jobs wait and the queue holds 1"):
        submit(store, queue_limit=1)
    claim(store)
    submit(store, queue_limit=1)


def test_the_same_key_and_body_is_the_same_job_even_when_the_queue_is_full(store: JobStore) -> None:
    first = submit(store, idempotency_key="k", queue_limit=1)
    claim(store)
    assert submit(store, idempotency_key="k", queue_limit=0).id == first.id
    assert len(store.list()) == 1


def test_the_same_key_with_another_body_is_refused(store: JobStore) -> None:
    first = submit(store, idempotency_key="k")
    with pytest.raises(DuplicateRequestError, match=f"already made {first.id}"):
        submit(store, "tamil", idempotency_key="k")


def test_jobs_start_in_the_order_they_came(store: JobStore) -> None:
    first, second = submit(store), submit(store)
    assert (store.position(first.id), store.position(second.id), store.queue_depth()) == (1, 2, 2)
    started = claim(store)
    assert (started.id, started.status, started.attempt) == (first.id, JobStatus.RUNNING, 1)
    assert started.started_at is not None
    assert (store.position(first.id), store.position(second.id), store.queue_depth()) == (None, 1, 1)


def test_jobs_are_counted_by_status(store: JobStore) -> None:
    for _ in range(2):
        submit(store)
    claim(store)
    counts = store.counts()
    assert (counts.pop(JobStatus.QUEUED), counts.pop(JobStatus.RUNNING)) == (1, 1)
    assert counts == dict.fromkeys(set(JobStatus) - {JobStatus.QUEUED, JobStatus.RUNNING}, 0)


def test_nothing_queued_is_nothing_to_claim(store: JobStore) -> None:
    assert store.claim_next() is None


def test_two_runners_never_start_the_same_job(tmp_path: Path, database: Database, store: JobStore) -> None:
    submitted = {submit(store, queue_limit=99).id for _ in range(20)}
    other = Database(tmp_path / "jobs.db")  # a connection of its own, as another process has
    claimed: list[str] = []

    def claim_all(mine: JobStore) -> None:
        while (job := mine.claim_next()) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=claim_all, args=(s,)) for s in (store, JobStore(other), store)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert len(claimed) == 20
    assert set(claimed) == submitted


def test_progress_keeps_what_is_not_given_and_merges_metrics(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    store.progress(job, phase=Phase.TRAINING, step=1, total_steps=9, metrics={"loss": 3.0, "samples_read": 14})
    now = store.progress(job, step=2, metrics={"loss": 2.5})
    assert (now.phase, now.step, now.total_steps) == (Phase.TRAINING, 2, 9)
    assert now.progress == {"loss": 2.5, "samples_read": 14}


def test_a_report_waits_for_a_locked_database_no_longer_than_a_request_can(database: Database, store: JobStore) -> None:
    """It is made on the thread that answers them."""
    submit(store)
    job = claim(store)
    statements: list[str] = []
    database._writer.set_trace_callback(statements.append)
    store.progress(job, step=3)
    store.succeed(job, {})
    waits = [statement for statement in statements if "busy_timeout" in statement]
    assert waits == ["PRAGMA busy_timeout = 3000", "PRAGMA busy_timeout = 30000"]


def test_a_figure_that_is_not_finite_is_kept_as_null(store: JobStore) -> None:
    submit(store)
    job = store.progress(claim(store), metrics={"loss": math.nan, "seen": [1.0, math.inf]})
    assert job.progress == {"loss": None, "seen": [1.0, None]}


def test_a_success_has_its_result_and_a_failure_its_code(store: JobStore) -> None:
    for _ in range(2):
        submit(store)
    good = store.succeed(claim(store), {"version": 3})
    bad = store.fail(claim(store), "empty_source", "no samples")
    assert (good.status, good.result) == (JobStatus.SUCCEEDED, {"version": 3})
    assert (bad.status, bad.error_code, bad.error_message) == (JobStatus.FAILED, "empty_source", "no samples")
    assert good.finished_at is not None
    assert good.started_at is not None
    assert good.finished_at > good.started_at


def test_a_queued_job_is_cancelled_at_once(store: JobStore) -> None:
    job = store.request_cancel(submit(store).id)
    assert (job.status, job.finished_at is not None) == (JobStatus.CANCELLED, True)
    assert store.claim_next() is None


def test_a_running_job_is_asked_to_stop_and_keeps_running(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    assert not store.stop_requested(job)
    assert store.request_cancel(job.id).status is JobStatus.RUNNING
    assert store.request_cancel(job.id).cancel_requested
    assert store.stop_requested(job)
    assert store.cancelled(job).status is JobStatus.CANCELLED


def test_progress_does_not_forget_that_cancelling_was_asked_for(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    store.request_cancel(job.id)
    store.progress(job, step=1)
    assert store.stop_requested(job)


def test_a_finished_job_cannot_be_cancelled(store: JobStore) -> None:
    submit(store)
    job = store.succeed(claim(store), {})
    with pytest.raises(WrongJobStateError, match="is succeeded; only a job that is not finished"):
        store.request_cancel(job.id)


def test_after_a_crash_running_jobs_queue_again_in_their_old_places(store: JobStore) -> None:
    first, second = submit(store), submit(store)
    claim(store)
    assert [job.id for job in store.requeue_interrupted()] == [first.id]
    assert (store.position(first.id), store.position(second.id)) == (1, 2)
    assert claim(store).attempt == 2


def test_the_third_crash_is_the_last(store: JobStore) -> None:
    submit(store)
    for _ in range(3):
        job = claim(store)
        store.requeue_interrupted()
    ended = store.get(job.id)
    assert (ended.status, ended.crashes, ended.error_code) == (JobStatus.FAILED, 3, "interrupted")
    assert "it broke off 3 times, the last time because the service died" in str(ended.error_message)
    assert store.claim_next() is None


def test_a_shutdown_in_order_is_a_new_attempt_and_no_crash(store: JobStore) -> None:
    submit(store)
    for _ in range(5):
        job = store.put_back(claim(store))
    assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, 5, 0)


def test_an_error_that_nobody_foresaw_costs_an_attempt_and_the_third_fails_with_its_code(store: JobStore) -> None:
    submit(store)
    for crashes in (1, 2):
        job = store.broke_off(claim(store), "internal_error", "unexpected KeyError")
        assert (job.status, job.crashes, job.error_code) == (JobStatus.QUEUED, crashes, None)
    job = store.broke_off(claim(store), "internal_error", "unexpected KeyError")
    assert (job.status, job.error_code, job.error_message) == (
        JobStatus.FAILED,
        "internal_error",
        "unexpected KeyError",
    )


def test_crashes_and_unforeseen_errors_count_together(store: JobStore) -> None:
    submit(store)
    store.broke_off(claim(store), "internal_error", "unexpected KeyError")
    for _ in range(2):
        job = claim(store)
        store.requeue_interrupted()
    assert (store.get(job.id).status, store.get(job.id).error_code) == (JobStatus.FAILED, "interrupted")


def paused(store: JobStore) -> Job:
    job = store.request_pause(submit(store).id)
    assert job.status is JobStatus.PAUSED
    return job


def test_a_paused_job_is_passed_over_and_keeps_its_place(store: JobStore) -> None:
    held, other, later = paused(store), submit(store), submit(store)
    assert (store.position(held.id), store.position(other.id), store.queue_depth()) == (None, 1, 3)
    assert claim(store).id == other.id
    assert store.request_resume(held.id).status is JobStatus.QUEUED
    assert (store.position(held.id), store.position(later.id)) == (1, 2)


def test_a_running_job_stops_before_it_is_paused(store: JobStore) -> None:
    submit(store)
    job = store.progress(claim(store), phase=Phase.TRAINING, step=3)
    asked = store.request_pause(job.id)
    assert (asked.status, asked.pause_requested, store.stop_requested(job)) == (JobStatus.RUNNING, True, True)
    held = store.put_back(job)
    assert (held.status, held.pause_requested, held.step, held.crashes) == (JobStatus.PAUSED, False, 3, 0)
    store.request_resume(held.id)
    assert claim(store).attempt == 2


def test_a_pause_can_be_withdrawn_before_the_job_has_stopped(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    store.request_pause(job.id)
    assert not store.request_resume(job.id).pause_requested
    assert not store.stop_requested(job)
    assert store.put_back(job).status is JobStatus.QUEUED


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
def test_a_job_that_ends_before_it_could_pause_has_ended(store: JobStore, ending: str) -> None:
    submit(store)
    job = claim(store)
    store.request_pause(job.id)
    ends = {
        "succeeded": lambda: store.succeed(job, {}),
        "failed": lambda: store.fail(job, "code", "message"),
        "cancelled": lambda: store.cancelled(job),
    }
    ended = ends[ending]()
    assert (ended.status, ended.pause_requested) == (JobStatus(ending), False)


def test_of_pausing_and_cancelling_the_latter_wins(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    store.request_pause(job.id)
    store.request_cancel(job.id)
    with pytest.raises(WrongJobStateError, match="is being cancelled; only a job that waits or runs"):
        store.request_pause(job.id)
    ended = store.put_back(job)
    assert (ended.status, ended.pause_requested) == (JobStatus.CANCELLED, False)


def test_a_paused_job_is_cancelled_at_once(store: JobStore) -> None:
    assert store.request_cancel(paused(store).id).status is JobStatus.CANCELLED


def test_a_job_that_was_asked_to_pause_is_not_started_again_after_a_crash(store: JobStore) -> None:
    submit(store)
    store.request_pause(claim(store).id)
    (job,) = store.requeue_interrupted()
    assert (job.status, job.crashes, store.claim_next()) == (JobStatus.PAUSED, 1, None)


def in_status(store: JobStore, status: JobStatus) -> Job:
    """A job that was brought there by moves, one of them a pause where there is one."""
    if status is JobStatus.PAUSED:
        return paused(store)
    waiting = submit(store)
    if status is JobStatus.QUEUED:
        return waiting
    job = claim(store)
    ends = {
        JobStatus.RUNNING: lambda: job,
        JobStatus.SUCCEEDED: lambda: store.succeed(job, {}),
        JobStatus.FAILED: lambda: store.fail(job, "code", "message"),
        JobStatus.CANCELLED: lambda: store.cancelled(job),
    }
    return ends[status]()


PAUSING = {"queued": "paused", "paused": "paused", "running": "running"}
RESUMING = {"queued": "queued", "paused": "queued", "running": "running"}


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize(("ask", "becomes"), [("request_pause", PAUSING), ("request_resume", RESUMING)])
def test_every_status_may_be_paused_and_resumed_again_and_again_or_says_why_not(
    store: JobStore, status: JobStatus, ask: str, becomes: dict[str, str]
) -> None:
    job, asks = in_status(store, status), getattr(store, ask)
    if status in becomes:
        first = asks(job.id)
        events = store.events(job.id)
        assert (first.status, asks(job.id)) == (becomes[status], first)
        assert store.events(job.id) == events
    else:
        with pytest.raises(WrongJobStateError, match=f"is {status}; only a"):
            asks(job.id)
        assert store.get(job.id) == job


@pytest.mark.parametrize(
    "damage",
    ["request = '{'", "request = '[]'", "created_at = 'yesterday'", "progress = ''", "progress = '7'", "phase = 'x'"],
)
def test_a_damaged_row_holds_up_no_other(
    database: Database, store: JobStore, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    bad, running, good = submit(store), submit(store), submit(store)
    with database.transaction() as connection:
        connection.execute(f"UPDATE jobs SET {damage} WHERE id = ?", (bad.id,))  # noqa: S608 - of this test alone
    assert claim(store).id == running.id
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET status = 'running' WHERE id = ?", (bad.id,))
    assert [job.id for job in store.requeue_interrupted()] == [running.id]
    assert store.position(good.id) == 2
    assert f"the row of {bad.id} cannot be read" in caplog.text
    assert [job.id for job in store.list()] == [good.id, running.id]
    with pytest.raises(DamagedJobError, match=f"what the state database has of {bad.id} cannot be read.*restore a"):
        store.get(bad.id)


def test_what_is_waiting_or_running_is_unfinished(store: JobStore) -> None:
    jobs = [submit(store) for _ in range(3)]
    store.succeed(claim(store), {})
    claim(store)
    assert store.unfinished_ids() == {job.id for job in jobs[1:]}


def test_a_job_that_was_asked_to_stop_is_not_started_again_after_a_crash(store: JobStore) -> None:
    submit(store)
    store.request_cancel(claim(store).id)
    assert store.requeue_interrupted()[0].status is JobStatus.CANCELLED


def test_an_old_attempt_can_write_nothing(store: JobStore) -> None:
    submit(store)
    old = claim(store)
    store.requeue_interrupted()
    new = claim(store)
    writes = (
        lambda: store.progress(old, step=5),
        lambda: store.succeed(old, {}),
        lambda: store.fail(old, "x", "y"),
        lambda: store.cancelled(old),
        lambda: store.put_back(old),
        lambda: store.broke_off(old, "x", "y"),
        lambda: store.stop_requested(old),
    )
    for write in writes:
        with pytest.raises(SupersededError, match="attempt 1 of"):
            write()
    assert store.get(new.id) == new


def test_a_job_ends_once(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    ended = store.succeed(job, {"version": 1})
    with pytest.raises(SupersededError):
        store.fail(job, "late", "too late")
    assert store.get(job.id) == ended


def test_every_move_leaves_an_event_and_steps_leave_none(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    store.progress(job, phase=Phase.TRAINING)
    store.progress(job, phase=Phase.TRAINING, step=7)
    store.request_cancel(job.id)
    store.cancelled(job)
    events = [(event.kind, event.attempt) for event in store.events(job.id)]
    assert events == [
        ("queued", 0),
        ("running", 1),
        ("phase:training", 1),
        ("cancel_requested", 1),
        ("cancelled", 1),
    ]


def test_jobs_survive_closing_and_opening(tmp_path: Path, database: Database, store: JobStore) -> None:
    job = submit(store)
    again = Database(tmp_path / "jobs.db")
    assert JobStore(again).get(job.id) == job
    again.close()
