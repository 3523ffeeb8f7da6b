"""Laws of the job table, whatever happens in whatever order, crashes included."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapter_service.database import Database
from adapter_service.errors import BusyError, DuplicateRequestError, SupersededError, WrongJobStateError
from adapter_service.jobs.job import MAX_CRASHES, Job, JobStatus, Phase
from adapter_service.jobs.store import JobStore

QUEUE_LIMIT = 4


class JobTable(RuleBasedStateMachine):
    """Submits, claims, reports, pauses, cancels, ends and crashes, beside a model that is a dictionary."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "jobs.db"
        self.database = Database(self.path)
        self.store = JobStore(self.database)
        self.model: dict[str, tuple[JobStatus, int]] = {}
        self.keys: dict[str, tuple[str, int]] = {}
        self.crashes: Counter[str] = Counter()
        self.cancelling: set[str] = set()
        self.pausing: set[str] = set()
        self.final: dict[str, Job] = {}

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def waiting(self) -> list[str]:
        return [job_id for job_id, (status, _) in self.model.items() if status is JobStatus.QUEUED]

    def holding_places(self) -> list[str]:
        return [job_id for job_id, (status, _) in self.model.items() if status in {JobStatus.QUEUED, JobStatus.PAUSED}]

    def running(self) -> list[str]:
        return [job_id for job_id, (status, _) in self.model.items() if status is JobStatus.RUNNING]

    def holds(self, claim: Job) -> bool:
        return self.model[claim.id] == (JobStatus.RUNNING, claim.attempt)

    @rule(target=jobs, body=st.integers(0, 2), key=st.sampled_from([None, "a", "b"]))
    def submit(self, body: int, key: str | None) -> str:
        def create() -> Job:
            return self.store.create(
                {"n": body}, adapter="hindi", trace_id="t", queue_limit=QUEUE_LIMIT, idempotency_key=key
            )

        if key in self.keys:
            job_id, first_body = self.keys[key]
            if body == first_body:
                assert create().id == job_id
            else:
                with pytest.raises(DuplicateRequestError):
                    create()
            return job_id
        if len(self.holding_places()) >= QUEUE_LIMIT:
            with pytest.raises(BusyError):
                create()
            return self.holding_places()[0]
        job = create()
        self.model[job.id] = (JobStatus.QUEUED, 0)
        if key:
            self.keys[key] = (job.id, body)
        return job.id

    @precondition(lambda self: self.waiting())
    @rule(target=claims)
    def claim(self) -> Job:
        job = self.store.claim_next()
        assert job is not None
        oldest = self.waiting()[0]
        assert (job.id, job.attempt) == (oldest, self.model[oldest][1] + 1)
        self.model[job.id] = (JobStatus.RUNNING, job.attempt)
        return job

    @rule(claim=claims, step=st.integers(0, 9), phase=st.sampled_from([None, *Phase]))
    def progress(self, claim: Job, step: int, phase: Phase | None) -> None:
        if self.holds(claim):
            assert self.store.progress(claim, step=step, phase=phase).step == step
        else:
            with pytest.raises(SupersededError):
                self.store.progress(claim, step=step, phase=phase)

    @rule(claim=claims, status=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def finish(self, claim: Job, status: str) -> None:
        ends = {
            "succeeded": lambda: self.store.succeed(claim, {"version": 1}),
            "failed": lambda: self.store.fail(claim, "code", "message"),
            "cancelled": lambda: self.store.cancelled(claim),
        }
        if self.holds(claim):
            ends[status]()
            self.model[claim.id] = (JobStatus(status), claim.attempt)
            self.pausing.discard(claim.id)
        else:
            with pytest.raises(SupersededError):
                ends[status]()

    @rule(claim=claims)
    def shut_down(self, claim: Job) -> None:
        if self.holds(claim):
            self.store.put_back(claim)
            self.put_back(claim.id)
        else:
            with pytest.raises(SupersededError):
                self.store.put_back(claim)

    @rule(claim=claims)
    def break_off(self, claim: Job) -> None:
        if self.holds(claim):
            self.store.broke_off(claim, "code", "message")
            self.crashes[claim.id] += 1
            self.put_back(claim.id, fails=self.crashes[claim.id] == MAX_CRASHES)
        else:
            with pytest.raises(SupersededError):
                self.store.broke_off(claim, "code", "message")

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        status, attempt = self.model[job_id]
        if status.finished or job_id in self.cancelling:
            with pytest.raises(WrongJobStateError):
                self.store.request_pause(job_id)
            return
        self.store.request_pause(job_id)
        if status is JobStatus.RUNNING:
            self.pausing.add(job_id)
        else:
            self.model[job_id] = (JobStatus.PAUSED, attempt)

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        status, attempt = self.model[job_id]
        if status.finished:
            with pytest.raises(WrongJobStateError):
                self.store.request_resume(job_id)
            return
        self.store.request_resume(job_id)
        self.pausing.discard(job_id)
        if status is JobStatus.PAUSED:
            self.model[job_id] = (JobStatus.QUEUED, attempt)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        status, attempt = self.model[job_id]
        if status.finished:
            with pytest.raises(WrongJobStateError):
                self.store.request_cancel(job_id)
            return
        self.store.request_cancel(job_id)
        if status is not JobStatus.RUNNING:
            self.model[job_id] = (JobStatus.CANCELLED, attempt)
        else:
            self.cancelling.add(job_id)

    @rule()
    def crash(self) -> None:
        self.database.close()
        self.database = Database(self.path)
        self.store = JobStore(self.database)
        assert [job.id for job in self.store.requeue_interrupted()] == self.running()
        for job_id in self.running():
            self.crashes[job_id] += 1
            self.put_back(job_id, fails=self.crashes[job_id] == MAX_CRASHES)

    def put_back(self, job_id: str, *, fails: bool = False) -> None:
        attempt = self.model[job_id][1]
        waits = JobStatus.PAUSED if job_id in self.pausing else JobStatus.QUEUED
        again = JobStatus.FAILED if fails else waits
        self.pausing.discard(job_id)
        self.model[job_id] = (JobStatus.CANCELLED if job_id in self.cancelling else again, attempt)

    @invariant()
    def the_table_is_the_model(self) -> None:
        table = {job.id: (job.status, job.attempt) for job in self.store.list()}
        assert table == self.model
        assert self.store.queue_depth() == len(self.holding_places())
        assert {job.id for job in self.store.list() if job.pause_requested} == self.pausing

    @invariant()
    def crashes_are_counted_and_no_job_has_too_many(self) -> None:
        for job in self.store.list():
            assert job.crashes <= MAX_CRASHES
            assert job.crashes == self.crashes[job.id]

    @invariant()
    def what_is_finished_never_changes(self) -> None:
        for job in self.store.list():
            assert job.status.finished == (job.finished_at is not None)
            if job.status.finished:
                assert self.final.setdefault(job.id, job) == job


JobTable.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestJobTable = JobTable.TestCase
