"""Laws of nodes' jobs and of what becomes of them, whatever happens in whatever order, crashes included."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapter_service.adapters import VersionStore
from adapter_service.commands.training_request import CommandTraining
from adapter_service.database import Database
from adapter_service.delivery.deliveries import Deliveries, DeliveryStatus
from adapter_service.delivery.outbox import NoticeKind, NoticeStatus, Outbox
from adapter_service.errors import JobCancelledError
from adapter_service.jobs.delivering import Delivering
from adapter_service.jobs.job import Job, JobStatus
from adapter_service.jobs.node_jobs import Limits, NodeJobs
from adapter_service.jobs.store import JobStore

NODES, BASES, CONTENTS = ("kitchen", "hall"), ("small", "large"), 3
DAY = timedelta(days=1)


def training(node: str, base: str, content: int) -> CommandTraining:
    return CommandTraining(node, base, [{"content": content}], f"{content:064x}", "UTC")


def nothing(_: sqlite3.Connection, __: Job) -> bool:
    """There is no version of what was trained before."""
    return False


class NodesOfAHub(RuleBasedStateMachine):
    """Submits, changes, cancels, trains, crashes, uploads and tells, beside a model of what each node wants."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.wanted: dict[str, str] = {}
        self.trained: dict[str, int] = {}
        self.running: Job | None = None
        self.final: dict[str, Job] = {}
        self.connect()

    def connect(self) -> None:
        self.database = Database(Path(self.folder.name) / "service.db")
        self.store = JobStore(self.database, self.clock)
        self.jobs = NodeJobs(self.database, self.store, self.clock)
        self.versions = VersionStore(self.database, Path(self.folder.name) / "adapters", self.clock)
        self.deliveries, self.outbox = Deliveries(self.database, self.clock), Outbox(self.database, self.clock)
        self.delivering = Delivering(self.versions, now=self.clock)
        self.store.when_ended(self.delivering.when_ended)

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @rule(node=st.sampled_from(NODES), base=st.sampled_from(BASES), content=st.integers(0, CONTENTS - 1))
    def submit(self, node: str, base: str, content: int) -> None:
        asked = training(node, base, content)
        key = f"{node}:{base}:{content}"
        unfinished = {job.content_key: job for job in self.of_node(node) if not job.status.finished}
        submitted = self.jobs.submit(
            asked,
            key,
            trace_id="t",
            limits=Limits(100, 10_000),
            bring=self.delivering.bring,
        )
        assert submitted.job.content_key == key
        if key in unfinished and not unfinished[key].cancel_requested:
            assert submitted.deduped
        if submitted.deduped and submitted.job.status.finished:
            delivery = self.deliveries.get(submitted.job.id)
            assert delivery is not None
            assert delivery.status in {DeliveryStatus.PENDING, DeliveryStatus.PUBLISHED}
        self.wanted[node] = key

    @precondition(lambda self: self.running is None)
    @rule()
    def claim(self) -> None:
        self.running = self.store.claim_next()

    @precondition(lambda self: self.running is not None)
    @rule(passes=st.booleans())
    def finish(self, passes: bool) -> None:
        job, self.running = self.running, None
        assert job is not None
        if self.store.stop_requested(job):
            self.store.put_back(job)
            return
        status, key = "rejected", "0" * 63 + "1"
        if passes:
            key = self.publish(job)
            try:
                version = self.versions.find(job.adapter, key)
                assert version is not None
                self.versions.go_live(version, check=lambda connection: self.store.check_wanted(connection, job))
            except JobCancelledError:
                self.store.put_back(job)
                return
            status = "live"
            self.trained[str(job.content_key)] = self.trained.get(str(job.content_key), 0) + 1
        self.store.succeed(job, {"version_status": status, "version_key": key})

    def publish(self, job: Job) -> str:
        key = f"{abs(hash(job.content_key)):064x}"[-64:]
        work = Path(self.folder.name) / "work"
        work.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (work / name).write_text("{}")
        self.versions.publish(job.adapter, work, key=key, job_id=job.id, base_id="base")
        return key

    @precondition(lambda self: self.running is not None)
    @rule()
    def fail(self) -> None:
        assert self.running is not None
        self.store.fail(self.running, "code", "message")
        self.running = None

    @precondition(lambda self: self.running is not None)
    @rule()
    def shut_down(self) -> None:
        assert self.running is not None
        self.store.put_back(self.running)
        self.running = None

    @rule()
    def crash(self) -> None:
        self.database.close()
        self.connect()
        self.store.requeue_interrupted()
        self.running = None

    @rule(node=st.sampled_from(NODES))
    def cancel_the_newest(self, node: str) -> None:
        newest = next(iter(self.of_node(node)), None)
        if newest is not None and not newest.status.finished:
            self.store.request_cancel(newest.id)
        elif newest is not None:
            self.deliveries.withdraw(newest.id)

    @rule(works=st.booleans())
    def upload(self, works: bool) -> None:
        delivery = self.deliveries.next()
        if delivery is None:
            return
        begun = self.deliveries.begin(delivery, (f"o/{n}" for n in range(10**6)), size_bytes=1, sha256="0" * 64)
        assert begun is not None
        if works:
            self.deliveries.published(begun, self.clock() + DAY)
        elif begun.attempts >= 2:
            self.deliveries.failed(begun, "given up")
        else:
            self.deliveries.postpone(begun, self.clock(), "away")

    @rule(works=st.booleans())
    def tell(self, works: bool) -> None:
        notice = self.outbox.next(NoticeKind.ADAPTER_READY)
        if notice is not None and works:
            self.outbox.sent(notice)
        elif notice is not None:
            self.outbox.postpone(notice, self.clock(), "away")

    @rule(passed=st.booleans())
    def delete(self, passed: bool) -> None:
        if passed:
            self.now += 2 * DAY
        delivery = self.deliveries.next_to_delete()
        if delivery is not None and delivery.next_attempt_at <= self.now:
            self.deliveries.deleted(delivery)

    def of_node(self, node: str) -> tuple[Job, ...]:
        return self.jobs.newest(node, limit=1000)

    @invariant()
    def each_node_has_one_begun_and_one_waiting_at_most(self) -> None:
        for node in NODES:
            open_jobs = [job for job in self.of_node(node) if not job.status.finished]
            assert sum(job.has_begun for job in open_jobs) <= 1
            assert sum(not job.has_begun for job in open_jobs) <= 1
            assert sum(job.status is JobStatus.RUNNING for job in open_jobs) <= 1

    @invariant()
    def the_newest_wish_is_never_lost(self) -> None:
        """What a node wants last waits, runs, was trained, or has failed: it was not pushed out by something older."""
        for node, key in self.wanted.items():
            newest = next((job for job in self.of_node(node) if job.content_key == key), None)
            assert newest is not None
            if newest.status is JobStatus.CANCELLED:
                assert newest.cancel_requested

    @invariant()
    def whatever_is_published_has_been_told_of_or_will_be(self) -> None:
        told = {notice.job_id for notice in self.outbox.list() if notice.kind is NoticeKind.ADAPTER_READY}
        for node in NODES:
            for delivery in self.deliveries.of_node(node):
                if delivery.status is DeliveryStatus.PUBLISHED:
                    assert delivery.job_id in told
        assert not any(notice.status is NoticeStatus.DROPPED for notice in self.outbox.list())

    @invariant()
    def nothing_is_trained_twice_while_its_version_is_there(self) -> None:
        assert all(count == 1 for count in self.trained.values())

    @invariant()
    def what_is_finished_stays_as_it_is(self) -> None:
        for node in NODES:
            for job in self.of_node(node):
                if job.status.finished:
                    assert self.final.setdefault(job.id, job) == job


NodesOfAHub.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestNodesOfAHub = NodesOfAHub.TestCase


def test_the_database_itself_refuses_a_second_waiting_job_of_a_node(tmp_path: Path) -> None:
    database = Database(tmp_path / "service.db")
    store, jobs = JobStore(database), NodeJobs(database, JobStore(database))
    first = jobs.submit(training("kitchen", "small", 0), "k", trace_id="t", limits=Limits(9, 9), bring=nothing).job
    second = replace(first, id="job_" + "0" * 26)
    with pytest.raises(sqlite3.IntegrityError, match="node_id"), database.transaction() as connection:
        store.insert(connection, second)
    database.close()
