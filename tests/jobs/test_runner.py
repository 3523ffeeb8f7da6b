"""The runner: how each ending of a job is written, how it stops, what it survives."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from adapter_service.database import Database
from adapter_service.errors import EmptySourceError, JobCancelledError, StorageError, StorageFullError
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import MAX_CRASHES, Job, JobStatus, Phase
from adapter_service.jobs.logs import JobLogs
from adapter_service.jobs.runner import Runner
from adapter_service.jobs.store import JobStore

Work = Callable[[Job, JobContext], Mapping[str, Any]]


class Workshop:
    """A store, a clock that stands still and a runner; `ended` waits for jobs without polling."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "jobs.db")
        self.store = SignallingStore(self.database)
        self.logs = JobLogs(folder / "logs")
        self.ready = threading.Event()
        self.ready.set()
        self.seconds = 0.0
        self.forgotten: list[str] = []
        self.storage_fault: StorageError | None = None
        self.checked = threading.Condition()
        self.checks = 0
        self.runner: Runner | None = None

    def run(self, work: Work) -> Runner:
        self.runner = Runner(
            self.store,
            work,
            self.logs,
            forget=self.forgotten.append,
            ready=self.ready.is_set,
            check_storage=self.check_storage,
            monotonic=lambda: self.seconds,
            retry_seconds=0.01,
        )
        self.runner.start()
        return self.runner

    def submit(self) -> Job:
        job = self.store.create({}, adapter="hindi", trace_id="t", queue_limit=9)
        if self.runner:
            self.runner.wake()
        return job

    def check_storage(self) -> None:
        with self.checked:
            self.checks += 1
            self.checked.notify_all()
        if self.storage_fault:
            raise self.storage_fault

    def ended(self, job: Job) -> Job:
        return self.reached(job, lambda now: now.status.finished)

    def reached(self, job: Job, is_so: Callable[[Job], bool]) -> Job:
        with self.store.changed:
            assert self.store.changed.wait_for(lambda: is_so(self.store.get(job.id)), timeout=20)
        return self.store.get(job.id)


class SignallingStore(JobStore):
    """The store, telling tests when an attempt has ended."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.changed = threading.Condition()

    def put_back(self, job: Job) -> Job:
        return self._told(super().put_back(job))

    def broke_off(self, job: Job, code: str, message: str) -> Job:
        return self._told(super().broke_off(job, code, message))

    def _finish(self, job: Job, status: JobStatus, **outcome: Any) -> Job:
        return self._told(super()._finish(job, status, **outcome))

    def _told(self, job: Job) -> Job:
        with self.changed:
            self.changed.notify_all()
        return job


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path)
    yield made
    if made.runner:
        assert made.runner.stop(timeout=20)
    made.database.close()


def test_a_returned_result_is_a_success(workshop: Workshop) -> None:
    job = workshop.submit()
    workshop.run(lambda job, _: {"version": 1, "of": job.adapter})
    assert workshop.ended(job).result == {"version": 1, "of": "hindi"}


def test_jobs_that_come_later_wake_the_runner_and_run_in_order(workshop: Workshop) -> None:
    ran: list[str] = []
    workshop.run(lambda job, _: ran.append(job.id) or {})  # type: ignore[func-returns-value]
    jobs = [workshop.submit() for _ in range(3)]
    workshop.ended(jobs[-1])
    assert ran == [job.id for job in jobs]


def test_an_error_of_our_own_is_a_failure_with_its_code(workshop: Workshop) -> None:
    def empty(*_: object) -> Mapping[str, Any]:
        raise EmptySourceError("source 'corpus' has no samples; check its filter")

    job = workshop.submit()
    workshop.run(empty)
    ended = workshop.ended(job)
    assert (ended.error_code, ended.error_message) == (
        "empty_source",
        "source 'corpus' has no samples; check its filter",
    )


def test_any_other_error_fails_its_job_alone_and_leaks_nothing(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(job: Job, _: JobContext) -> Mapping[str, Any]:
        if job.id == bad.id:
            raise FileNotFoundError("/home/someone/secret")
        return {}

    bad, good = workshop.submit(), workshop.submit()
    with caplog.at_level(logging.ERROR):
        workshop.run(broken)
        assert workshop.ended(good).status is JobStatus.SUCCEEDED
    ended = workshop.ended(bad)
    assert (ended.error_code, "FileNotFoundError" in str(ended.error_message)) == ("internal_error", True)
    assert "secret" not in str(ended.error_message)
    assert "secret" in caplog.text


def test_an_unforeseen_error_is_tried_again_with_the_files_of_the_job_kept(workshop: Workshop) -> None:
    def at_first_broken(job: Job, _: JobContext) -> Mapping[str, Any]:
        assert workshop.forgotten == []
        if job.attempt < 3:
            raise KeyError("loss")
        return {"attempt": job.attempt}

    job = workshop.submit()
    runner = workshop.run(at_first_broken)
    assert workshop.ended(job).result == {"attempt": 3}
    assert runner.stop(timeout=20)
    log = "\n".join(workshop.logs.read(job.id).lines)
    assert log.count("broke off: unexpected KeyError") == 2
    assert workshop.forgotten == [job.id]


def test_a_full_disk_costs_a_job_no_attempt_and_no_job_begins_before_there_is_room(workshop: Workshop) -> None:
    full = StorageFullError("0 MiB are free")
    begun: list[int] = []

    def fill_the_disk(job: Job, _: JobContext) -> Mapping[str, Any]:
        begun.append(job.attempt)
        if job.attempt == 1:
            workshop.storage_fault = full
            raise OSError(errno.ENOSPC, "No space left on device", "/state/work/artifact")
        return {}

    job = workshop.submit()
    runner = workshop.run(fill_the_disk)
    waiting = workshop.reached(job, lambda now: now.attempt == 1 and now.status is JobStatus.QUEUED)
    assert (waiting.crashes, begun) == (0, [1])
    workshop.storage_fault = None
    runner.wake()
    assert workshop.ended(job).attempt == 2
    assert "broke off: the disk of the state folder is full; make room" in "\n".join(workshop.logs.read(job.id).lines)


def test_a_disk_that_is_full_for_one_job_alone_fails_that_job_in_the_end(workshop: Workshop) -> None:
    def too_large(job: Job, _: JobContext) -> Mapping[str, Any]:
        if job.id == large.id:
            raise OSError(errno.ENOSPC, "No space left on device", "/state/work/artifact")
        return {}

    large, small = workshop.submit(), workshop.submit()
    workshop.run(too_large)
    ended = workshop.ended(large)
    assert (ended.error_code, ended.crashes) == ("storage_full", 3)
    assert "/state" not in str(ended.error_message)
    assert workshop.ended(small).status is JobStatus.SUCCEEDED


def test_while_storage_takes_nothing_the_runner_says_so_and_costs_no_attempt(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.storage_fault = StorageError("the state folder is read-only")
    job = workshop.submit()
    runner = workshop.run(lambda *_: {})
    with workshop.checked:
        assert workshop.checked.wait_for(lambda: workshop.checks >= 3, timeout=20)
    assert (runner.fault, workshop.store.get(job.id).attempt) == ("the state folder is read-only", 0)
    assert caplog.text.count("jobs are held up: the state folder is read-only") == 1
    workshop.storage_fault = None
    assert workshop.ended(job).attempt == 1
    assert runner.fault is None


def test_a_paused_job_stops_keeps_its_files_and_goes_on_when_it_is_resumed(workshop: Workshop) -> None:
    def train(job: Job, context: JobContext) -> Mapping[str, Any]:
        if (job.id, job.attempt) == (held.id, 1):
            workshop.store.request_pause(job.id)
            assert context.cancelled()
            raise JobCancelledError("at step 3")
        return {"attempt": job.attempt}

    held, other = workshop.submit(), workshop.submit()
    runner = workshop.run(train)
    assert workshop.ended(other).attempt == 1
    assert workshop.store.get(held.id).status is JobStatus.PAUSED
    assert held.id not in workshop.forgotten
    workshop.store.request_resume(held.id)
    runner.wake()
    assert workshop.ended(held).result == {"attempt": 2}


def test_a_database_that_takes_nothing_at_the_start_is_waited_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, faults = workshop.store.requeue_interrupted, [sqlite3.OperationalError("database is locked")] * 2

    def locked_at_first() -> tuple[Job, ...]:
        if faults:
            raise faults.pop()
        return real()

    monkeypatch.setattr(workshop.store, "requeue_interrupted", locked_at_first)
    job = workshop.submit()
    workshop.store.claim_next()
    workshop.run(lambda *_: {})
    assert (workshop.ended(job).attempt, faults) == (2, [])


def test_a_job_that_broke_off_for_the_last_time_is_forgotten(workshop: Workshop) -> None:
    job = workshop.submit()
    for _ in range(MAX_CRASHES - 1):
        workshop.store.claim_next()
        workshop.store.requeue_interrupted()
    workshop.store.claim_next()
    workshop.run(lambda *_: {})
    assert (workshop.store.get(job.id).error_code, workshop.forgotten) == ("interrupted", [job.id])


def test_a_result_that_is_not_json_fails_the_job_and_not_the_runner(workshop: Workshop) -> None:
    bad, good = workshop.submit(), workshop.submit()
    workshop.run(lambda job, _: {"made": object()} if job.id == bad.id else {})
    assert workshop.ended(bad).error_code == "internal_error"
    assert workshop.ended(good).status is JobStatus.SUCCEEDED


def test_a_cancelled_job_ends_as_cancelled(workshop: Workshop) -> None:
    job = workshop.submit()

    def train(job: Job, context: JobContext) -> Mapping[str, Any]:
        workshop.store.request_cancel(job.id)
        if context.cancelled():
            raise JobCancelledError("at step 3")
        return {}

    workshop.run(train)
    assert workshop.ended(job).status is JobStatus.CANCELLED


def test_stopping_puts_the_running_job_back_in_the_queue(workshop: Workshop) -> None:
    begun, stopping = threading.Event(), threading.Event()

    def train(_: Job, context: JobContext) -> Mapping[str, Any]:
        begun.set()
        assert stopping.wait(20)
        assert context.stopping()
        raise JobCancelledError

    job = workshop.submit()
    runner = workshop.run(train)
    assert begun.wait(20)
    assert not runner.stop(timeout=0)
    stopping.set()
    assert runner.stop(timeout=20)
    assert (workshop.store.get(job.id).status, workshop.store.get(job.id).attempt) == (JobStatus.QUEUED, 1)


def test_a_stopped_runner_claims_no_more(workshop: Workshop) -> None:
    assert workshop.run(lambda *_: {}).stop(timeout=20)
    assert workshop.submit().status is JobStatus.QUEUED


def test_nothing_begins_before_everything_is_ready(workshop: Workshop) -> None:
    workshop.ready.clear()
    cancelled, kept = workshop.submit(), workshop.submit()
    runner = workshop.run(lambda *_: {})
    runner.wake()
    assert workshop.store.request_cancel(cancelled.id).status is JobStatus.CANCELLED
    assert workshop.store.get(kept.id).attempt == 0
    workshop.ready.set()
    runner.wake()
    assert workshop.ended(kept).attempt == 1


def test_what_never_gets_ready_keeps_the_queue_and_lets_the_runner_stop(workshop: Workshop) -> None:
    workshop.ready.clear()
    job = workshop.submit()
    assert workshop.run(lambda *_: {}).stop(timeout=20)
    assert workshop.store.get(job.id) == job


def test_a_fault_in_writing_how_a_job_ended_costs_it_an_attempt_and_no_other_job(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, faults = workshop.store.succeed, [ValueError("nobody foresaw it")]

    def succeed(job: Job, result: Mapping[str, Any]) -> Job:
        if faults:
            raise faults.pop()
        return real(job, result)

    monkeypatch.setattr(workshop.store, "succeed", succeed)
    first, second = workshop.submit(), workshop.submit()
    runner = workshop.run(lambda *_: {})
    assert workshop.ended(second).status is JobStatus.SUCCEEDED
    ended = workshop.ended(first)
    assert (ended.status, ended.attempt, ended.crashes) == (JobStatus.SUCCEEDED, 2, 1)
    assert runner.alive
    assert f"how {first.id} ended cannot be written" in caplog.text


def test_a_row_that_takes_nothing_any_more_costs_no_other_job(workshop: Workshop) -> None:
    def damage(job: Job, _: JobContext) -> Mapping[str, Any]:
        if job.id == damaged.id:
            with workshop.database.transaction() as connection:
                connection.execute("UPDATE jobs SET request = '[]' WHERE id = ?", (job.id,))
        return {}

    damaged, other = workshop.submit(), workshop.submit()
    workshop.run(damage)
    assert workshop.ended(other).status is JobStatus.SUCCEEDED


def test_a_message_with_half_a_character_ends_its_job_as_any_other(workshop: Workshop) -> None:
    """A record may have one, and messages quote records; UTF-8 has no bytes for it."""

    def fail(_: Job, context: JobContext) -> Mapping[str, Any]:
        context.log("the record has 'pro\ud800mpt'")
        context.report(samples={"reasons": {"no field '\ud800'": 1}})
        raise EmptySourceError("no field 'prompt'; the record has 'pro\ud800mpt'")

    job = workshop.submit()
    runner = workshop.run(fail)
    ended = workshop.ended(job)
    assert (ended.error_code, ended.error_message) == (
        "empty_source",
        "no field 'prompt'; the record has 'pro\ufffdmpt'",
    )
    assert ended.progress == {"samples": {"reasons": {"no field '\ufffd'": 1}}}
    assert runner.stop(timeout=20)
    assert "the record has 'pro\\ud800mpt'" in "\n".join(workshop.logs.read(job.id).lines)


def test_whether_to_stop_is_read_twice_a_second_at_most(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    real = workshop.store.stop_requested
    monkeypatch.setattr(workshop.store, "stop_requested", lambda job: asked.append(workshop.seconds) or real(job))  # type: ignore[func-returns-value]

    def train(job: Job, context: JobContext) -> Mapping[str, Any]:
        workshop.store.request_cancel(job.id) if not context.cancelled() else None
        told = []
        for workshop.seconds in (0.2, 0.4, 0.6, 5.0):
            told.append(context.cancelled())
        return {"told": told}

    job = workshop.submit()
    workshop.run(train)
    assert workshop.ended(job).result == {"told": [False, False, True, True]}
    assert asked == [0.0, 0.6]


def test_a_question_that_the_database_does_not_answer_is_no_reason_to_stop(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def locked(job: Job) -> bool:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(workshop.store, "stop_requested", locked)
    job = workshop.submit()
    workshop.run(lambda _, context: {"cancelled": context.cancelled()})
    assert workshop.ended(job).result == {"cancelled": False}
    assert "not known whether to stop" in caplog.text


def test_starting_runs_what_a_crash_left_behind_as_a_new_attempt(workshop: Workshop) -> None:
    job = workshop.submit()
    workshop.store.claim_next()
    workshop.run(lambda *_: {})
    ended = workshop.ended(job)
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2)


def test_reports_are_written_twice_a_second_new_phases_at_once_and_the_last_always(
    workshop: Workshop,
) -> None:
    seen: list[tuple[int, float | None]] = []

    def train(job: Job, context: JobContext) -> Mapping[str, Any]:
        for seconds, step in ((0.0, 1), (0.2, 2), (0.6, 3), (0.7, 4)):
            workshop.seconds = seconds
            context.report(phase=Phase.TRAINING, step=step, total=5, loss=4.0 - step)
            row = workshop.store.get(job.id)
            seen.append((row.step, row.progress["loss"]))
        context.report(phase=Phase.GATING)
        seen.append((workshop.store.get(job.id).step, None))
        context.report(step=5, loss=0.5)
        return {}

    job = workshop.submit()
    workshop.run(train)
    ended = workshop.ended(job)
    assert seen == [(1, 3.0), (1, 3.0), (3, 1.0), (3, 1.0), (4, None)]
    assert (ended.step, ended.phase, ended.progress) == (5, Phase.GATING, {"loss": 0.5})


def test_the_log_has_what_the_job_said_and_how_it_ended(workshop: Workshop) -> None:
    def train(_: Job, context: JobContext) -> Mapping[str, Any]:
        context.log("read 14 samples")
        raise EmptySourceError("no more samples")

    job = workshop.submit()
    runner = workshop.run(train)
    workshop.ended(job)
    assert runner.stop(timeout=20)
    lines = [line.partition(" ")[2] for line in workshop.logs.read(job.id).lines]
    assert lines == [
        "attempt 1 begins",
        "read 14 samples",
        "attempt 1 ended, the job is failed: no more samples",
    ]


def test_a_superseded_attempt_writes_nothing_and_the_runner_goes_on(workshop: Workshop) -> None:
    def taken_over(job: Job, _: JobContext) -> Mapping[str, Any]:
        if job.attempt == 1:
            workshop.store.requeue_interrupted()
        return {"attempt": job.attempt}

    job = workshop.submit()
    workshop.run(taken_over)
    assert workshop.ended(job).result == {"attempt": 2}


@pytest.mark.parametrize("move", ["claim_next", "succeed", "progress"])
def test_a_full_disk_is_waited_out(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, move: str) -> None:
    real = getattr(workshop.store, move)
    faults = [sqlite3.OperationalError("database or disk is full")] * 2

    def full_at_first(*args: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return real(*args, **options)

    def train(_: Job, context: JobContext) -> Mapping[str, Any]:
        context.report(phase=Phase.TRAINING, loss=1.0)
        context.report(step=3)
        return {"version": 1}

    monkeypatch.setattr(workshop.store, move, full_at_first)
    job = workshop.submit()
    workshop.run(train)
    ended = workshop.ended(job)
    assert (ended.result, ended.step, ended.progress) == ({"version": 1}, 3, {"loss": 1.0})
    assert not faults
