"""One job of a node that has begun and one that has not; limits, priority, and jobs by hubs' own names."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_service.commands.training_request import CommandTraining
from adapter_service.database import Database
from adapter_service.errors import BusyError, DuplicateRequestError, JobCancelledError, RateLimitedError
from adapter_service.jobs.job import Job, JobStatus
from adapter_service.jobs.node_jobs import Limits, NodeJobs, Submitted
from adapter_service.jobs.store import JobStore

MANY = Limits(100, 100)


def nothing(_: sqlite3.Connection, __: Job) -> bool:
    """There is no version of what was trained before."""
    return False


class Hub:
    """The table, with a clock that stands until it is moved."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.database = Database(folder / "service.db")
        self.store = JobStore(self.database, lambda: self.now)
        self.jobs = NodeJobs(self.database, self.store, lambda: self.now)

    def post(self, content: str, node: str = "kitchen", *, limits: Limits = MANY, **fields: str) -> Submitted:
        base = fields.pop("base_model_id", "small")
        asked = CommandTraining(node, base, [content], content, "UTC")
        asked = replace(asked, **fields)  # type: ignore[arg-type]
        return self.jobs.submit(asked, f"{node} {base} {content}", trace_id="t", limits=limits, bring=nothing)

    def claim(self) -> Job:
        job = self.store.claim_next()
        assert job is not None
        return job

    def status(self, job: Job) -> JobStatus:
        return self.store.get(job.id).status


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    yield hub
    hub.database.close()


def test_a_newer_snapshot_takes_the_place_of_the_one_that_waits(hub: Hub) -> None:
    older, newer = hub.post("a"), hub.post("b")
    assert [job.id for job in newer.replaced] == [older.job.id]
    assert hub.status(older.job) is JobStatus.CANCELLED
    assert hub.claim().id == newer.job.id


def test_what_runs_is_asked_to_stop_and_the_newest_begins_after_it(hub: Hub) -> None:
    older = hub.post("a").job
    running = hub.claim()
    newest = [hub.post("b"), hub.post("c")][-1].job
    assert hub.store.get(older.id).cancel_requested
    assert hub.store.claim_next() is None
    hub.store.put_back(running)
    assert hub.status(older) is JobStatus.CANCELLED
    assert hub.claim().id == newest.id


def test_another_base_alone_stops_nothing(hub: Hub) -> None:
    older = hub.post("a").job
    running = hub.claim()
    newer = hub.post("a", base_model_id="large").job
    assert not hub.store.get(older.id).cancel_requested
    hub.store.succeed(running, {})
    assert hub.claim().id == newer.id


def test_an_interrupted_job_goes_on_before_the_one_that_waits(hub: Hub) -> None:
    older = hub.post("a").job
    hub.claim()
    hub.post("a", base_model_id="large", priority="high")
    hub.store.requeue_interrupted()
    assert hub.claim().id == older.id


def test_the_same_is_the_same_job_while_it_waits_and_while_it_runs(hub: Hub) -> None:
    first = hub.post("a")
    again = hub.post("a")
    hub.claim()
    third = hub.post("a")
    assert [one.deduped for one in (first, again, third)] == [False, True, True]
    assert {one.job.id for one in (first, again, third)} == {first.job.id}


def test_going_back_to_what_was_asked_to_stop_is_a_new_job(hub: Hub) -> None:
    first = hub.post("a").job
    hub.claim()
    hub.post("b")
    again = hub.post("a")
    assert (again.deduped, again.job.id != first.id) == (False, True)


def test_a_job_that_was_cancelled_meanwhile_makes_nothing_live(hub: Hub) -> None:
    hub.post("a")
    running = hub.claim()
    hub.post("b")
    with pytest.raises(JobCancelledError), hub.database.transaction() as connection:
        hub.store.check_wanted(connection, running)


def test_nodes_do_not_stand_in_each_others_way(hub: Hub) -> None:
    kitchen, hall = hub.post("a"), hub.post("a", "hall")
    assert not hall.deduped
    assert {hub.claim().id, hub.claim().id} == {kitchen.job.id, hall.job.id}


def test_high_priority_begins_first(hub: Hub) -> None:
    normal = hub.post("a").job
    high = hub.post("a", "hall", priority="high").job
    assert hub.store.position(high.id) == 1
    assert [hub.claim().id, hub.claim().id] == [high.id, normal.id]


def test_jobs_within_the_hour_are_counted_from_the_table_and_the_same_again_is_none(hub: Hub) -> None:
    limits = Limits(100, 2)
    for content in ("a", "b"):
        hub.post(content, limits=limits)
        hub.now += timedelta(minutes=10)
    assert hub.post("b", limits=limits).deduped
    with pytest.raises(RateLimitedError) as refused:
        hub.post("c", limits=limits)
    assert refused.value.retry_after_seconds == 40 * 60
    assert not hub.post("c", "hall", limits=limits).deduped
    hub.now += timedelta(minutes=40, seconds=1)
    assert not hub.post("c", limits=limits).deduped


def test_a_refused_job_replaces_nothing(hub: Hub) -> None:
    waiting = hub.post("a", limits=Limits(100, 1)).job
    with pytest.raises(RateLimitedError):
        hub.post("b", limits=Limits(100, 1))
    assert hub.status(waiting) is JobStatus.QUEUED


def test_nodes_and_others_have_places_of_their_own_in_the_queue(hub: Hub) -> None:
    hub.post("a", limits=Limits(1, 9))
    with pytest.raises(BusyError):
        hub.post("a", "hall", limits=Limits(1, 9))
    hub.store.create({}, adapter="hindi", trace_id="t", queue_limit=1)


def test_a_hubs_id_finds_its_job_and_is_given_to_no_other(hub: Hub) -> None:
    first = hub.post("a", external_id="hub-1", idempotency_key="k")
    assert hub.jobs.id_of("hub-1") == first.job.id
    assert hub.post("a", external_id="hub-1", idempotency_key="k").deduped
    second = hub.post("a", external_id="hub-2", idempotency_key="k2")
    assert (second.job.id, hub.jobs.id_of("hub-2")) == (first.job.id, first.job.id)
    with pytest.raises(DuplicateRequestError):
        hub.post("b", external_id="hub-1")
    with pytest.raises(DuplicateRequestError):
        hub.post("b", idempotency_key="k")
    assert hub.jobs.id_of("k") == "k"
