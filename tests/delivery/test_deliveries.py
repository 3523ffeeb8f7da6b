"""What may become of a delivery, in whatever order it happens, and who is told of it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from adapter_service.adapters import Version
from adapter_service.delivery.deliveries import Delivery, DeliveryStatus
from tests.delivery.shipping import HASH, START, Clock, Machine

HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def machine(tmp_path: Path, clock: Clock) -> Iterator[Machine]:
    made = Machine(tmp_path / "state", clock)
    yield made
    made.database.close()


@pytest.fixture
def queued(machine: Machine) -> Delivery:
    machine.add_job("job_1", callback=True)
    return machine.queue("job_1", machine.train())


def begun(machine: Machine, delivery: Delivery) -> Delivery:
    found = machine.deliveries.begin(delivery, ["a/1/adapter.zip", "a/2/adapter.zip"], size_bytes=9, sha256="0" * 64)
    assert found is not None
    return found


def published(machine: Machine, delivery: Delivery) -> Delivery:
    found = machine.deliveries.published(begun(machine, delivery), machine.clock() + HOUR)
    assert found is not None
    return found


def test_what_is_queued_is_due_at_once(machine: Machine, queued: Delivery) -> None:
    assert machine.deliveries.next() == queued
    assert (queued.status, queued.attempts, queued.next_attempt_at) == (DeliveryStatus.PENDING, 0, START)
    assert (queued.object_key, queued.first_attempt_at, queued.dataset_hash) == (None, None, HASH)
    assert machine.deliveries.of_node("kitchen-1") == (queued,)


def test_a_key_that_another_has_is_passed_over_and_a_chosen_one_stays(machine: Machine, queued: Delivery) -> None:
    assert begun(machine, queued).object_key == "a/1/adapter.zip"
    machine.add_job("job_2")
    other = machine.queue("job_2", machine.train(), node_id="hall")
    assert begun(machine, other).object_key == "a/2/adapter.zip"
    again = machine.deliveries.begin(machine.delivery(), ["b/1/adapter.zip"], size_bytes=9, sha256="0" * 64)
    assert again is not None
    assert again.object_key == "a/1/adapter.zip"
    assert machine.deliveries.at("a/2/adapter.zip") == machine.delivery("job_2")


def test_what_is_published_and_who_is_told_are_one_transaction(machine: Machine, queued: Delivery) -> None:
    with machine.database.transaction() as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        published(machine, queued)
    assert machine.delivery().status is DeliveryStatus.PENDING
    with machine.database.transaction() as connection:
        connection.execute("DROP TRIGGER full")
    found = published(machine, machine.delivery())
    assert (found.published_at, found.expires_at, found.attempts) == (START, START + HOUR, 1)
    assert machine.notices() == [("adapter_ready", "job_1"), ("callback", "job_1")]
    assert machine.deliveries.next() is None


def test_a_failure_calls_back_and_tells_no_node(machine: Machine, queued: Delivery) -> None:
    found = machine.deliveries.failed(queued, "the version was removed")
    assert found is not None
    assert (found.status, found.reason) == (DeliveryStatus.FAILED, "the version was removed")
    assert machine.notices() == [("callback", "job_1")]


def test_a_postponed_one_waits_with_its_reason_and_the_hour_counts_from_its_first_attempt(
    machine: Machine, queued: Delivery, clock: Clock
) -> None:
    first = machine.deliveries.postpone(queued, START + HOUR, "away")
    assert first is not None
    clock.forward(hours=1)
    again = machine.deliveries.postpone(first, START + 2 * HOUR, "still away")
    assert again is not None
    assert (again.attempts, again.reason, again.first_attempt_at) == (2, "still away", START)
    assert machine.deliveries.next() == again


def test_whoever_was_slower_moves_nothing(machine: Machine, queued: Delivery) -> None:
    known = begun(machine, queued)
    assert machine.deliveries.withdraw("job_1")
    assert machine.deliveries.published(known, START + HOUR) is None
    assert machine.deliveries.postpone(known, START + HOUR, "away") is None
    assert machine.deliveries.failed(known, "away") is None
    assert machine.deliveries.begin(known, ["x"], size_bytes=1, sha256="0" * 64) is None
    assert not machine.deliveries.withdraw("job_1")
    assert machine.notices() == [("callback", "job_1")]
    assert machine.delivery().reason == "it was cancelled"


def test_what_a_withdrawn_one_may_have_left_is_to_be_deleted(machine: Machine, queued: Delivery) -> None:
    machine.deliveries.withdraw("job_1")
    assert machine.deliveries.next_to_delete() is None
    machine.queue("job_1", machine.train())
    begun(machine, machine.delivery())
    machine.deliveries.withdraw("job_1")
    left = machine.deliveries.next_to_delete()
    assert left == machine.delivery()
    assert left is not None
    machine.deliveries.deleted(left)
    assert (machine.delivery().status, machine.delivery().object_key) == (DeliveryStatus.WITHDRAWN, None)


def test_an_acknowledged_one_is_to_be_deleted_at_once(machine: Machine, queued: Delivery, clock: Clock) -> None:
    assert not machine.deliveries.acknowledge("job_1")
    published(machine, queued)
    clock.forward(minutes=1)
    assert machine.deliveries.acknowledge("job_1")
    clock.forward(minutes=1)
    assert machine.deliveries.acknowledge("job_1")
    over = machine.deliveries.next_to_delete()
    assert over is not None
    assert over.acknowledged_at == START + timedelta(minutes=1)
    assert over.next_attempt_at <= clock()
    gone = machine.deliveries.deleted(over)
    assert gone is not None
    assert (gone.status, gone.object_key) == (DeliveryStatus.DELETED, None)
    assert not machine.deliveries.acknowledge("job_1")


def test_asked_for_again_what_is_there_stays_and_what_is_not_is_pending_anew(
    machine: Machine, queued: Delivery, clock: Clock
) -> None:
    version = machine.train()
    clock.forward(minutes=1)
    assert machine.queue("job_1", version) == queued
    there = published(machine, queued)
    assert machine.queue("job_1", version) == there
    machine.deliveries.acknowledge("job_1")  # it may be gone any moment
    again = machine.queue("job_1", version)
    assert (again.status, again.attempts, again.next_attempt_at) == (DeliveryStatus.PENDING, 0, clock())
    assert (again.acknowledged_at, again.expires_at, again.published_at) == (None, None, None)
    assert (again.object_key, again.created_at) == (there.object_key, START)


def test_what_has_expired_is_pending_anew_also_before_it_is_deleted(
    machine: Machine, queued: Delivery, clock: Clock
) -> None:
    published(machine, queued)
    clock.forward(hours=1)
    assert machine.queue("job_1", machine.train()).status is DeliveryStatus.PENDING


@pytest.mark.parametrize("end", ["failed", "withdrawn", "deleted"])
def test_every_end_can_be_asked_for_again(machine: Machine, queued: Delivery, end: str) -> None:
    if end == "failed":
        machine.deliveries.failed(queued, "away")
    elif end == "withdrawn":
        machine.deliveries.withdraw("job_1")
    else:
        machine.deliveries.deleted(published(machine, queued))
    assert machine.delivery().status == end
    again = machine.queue("job_1", machine.train())
    assert (again.status, again.reason, again.first_attempt_at) == (DeliveryStatus.PENDING, None, None)


def test_an_adapter_for_newer_commands_withdraws_the_older_one_that_still_waits(
    machine: Machine, queued: Delivery
) -> None:
    version = machine.train()
    for job_id, other in (("job_2", {"node_id": "hall"}), ("job_3", {"base_model_id": "large"}), ("job_4", {})):
        machine.add_job(job_id)
        machine.queue(job_id, version, **other)
    found = {job_id: machine.delivery(job_id).status.value for job_id in ("job_1", "job_2", "job_3", "job_4")}
    assert found == {"job_1": "withdrawn", "job_2": "pending", "job_3": "pending", "job_4": "pending"}
    assert "newer commands" in (machine.delivery("job_1").reason or "")
    assert machine.notices() == [("callback", "job_1")]


JOBS = ("job_1", "job_2", "job_3")


class DeliveryTable(RuleBasedStateMachine):
    """Queues, uploads, failures, acknowledgements, expiries, deletions and crashes, beside a model of dictionaries.

    job_1 and job_2 are of one node, job_3 of another. `store` is what really lies there.
    """

    known = Bundle("known")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.machine = Machine(Path(self.folder.name), self.clock)
        self.version: Version = self.machine.train()
        for job_id in JOBS:
            self.machine.add_job(job_id, callback=True)
        self.status: dict[str, str] = {}
        self.published: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.withdrawn: Counter[str] = Counter()
        self.store: dict[str, str] = {}
        self.numbers = count()

    def teardown(self) -> None:
        self.machine.database.close()
        self.folder.cleanup()

    @rule(seconds=st.integers(0, 4000))
    def wait(self, seconds: int) -> None:
        self.clock.forward(seconds=seconds)

    @rule()
    def restart(self) -> None:
        self.machine.database.close()
        self.machine = Machine(Path(self.folder.name), self.clock)

    @rule(job_id=st.sampled_from(JOBS))
    def queue(self, job_id: str) -> None:
        node = "hall" if job_id == "job_3" else "kitchen"
        before = self.machine.deliveries.get(job_id)
        self.machine.queue(job_id, self.version, node_id=node)
        there = before is not None and before.status is DeliveryStatus.PUBLISHED and self.is_good(before)
        if not there and self.status.get(job_id) != "pending":
            for other in set(JOBS) - {job_id, "job_3"}:
                if node == "kitchen" and self.status.get(other) == "pending":
                    self.status[other] = "withdrawn"
                    self.withdrawn[other] += 1
            self.status[job_id] = "pending"

    def is_good(self, delivery: Delivery) -> bool:
        assert delivery.expires_at is not None
        return delivery.acknowledged_at is None and self.clock() < delivery.expires_at

    @rule(target=known)
    def look(self) -> Delivery | None:
        return self.machine.deliveries.next()

    def holds(self, delivery: Delivery) -> bool:
        found = self.machine.deliveries.get(delivery.job_id)
        assert found is not None
        return (found.status, found.attempts) == (delivery.status, delivery.attempts)

    @rule(delivery=known, uploads=st.booleans(), notes=st.booleans())
    def upload(self, delivery: Delivery | None, uploads: bool, notes: bool) -> None:
        """As the deliverer does, and dies after any of the steps."""
        if delivery is None:
            return
        keys = (f"k{number}" for number in self.numbers)
        could = self.holds(delivery)
        begun = self.machine.deliveries.begin(
            self.machine.delivery(delivery.job_id) if could else delivery, keys, size_bytes=1, sha256="0" * 64
        )
        assert (begun is not None) == could
        if begun is None or begun.object_key is None or not uploads:
            return
        self.store[begun.object_key] = begun.job_id
        if notes and self.machine.deliveries.published(begun, self.clock() + HOUR) is not None:
            self.status[begun.job_id] = "published"
            self.published[begun.job_id] += 1

    @rule(delivery=known, ends=st.booleans())
    def upload_fails(self, delivery: Delivery | None, ends: bool) -> None:
        if delivery is None or not self.holds(delivery):
            return
        delivery = self.machine.delivery(delivery.job_id)
        if ends:
            assert self.machine.deliveries.failed(delivery, "away") is not None
            self.status[delivery.job_id] = "failed"
            self.failed[delivery.job_id] += 1
        else:
            assert self.machine.deliveries.postpone(delivery, self.clock() + HOUR / 12, "away") is not None

    @rule(job_id=st.sampled_from(JOBS))
    def withdraw(self, job_id: str) -> None:
        assert self.machine.deliveries.withdraw(job_id) == (self.status.get(job_id) == "pending")
        if self.status.get(job_id) == "pending":
            self.status[job_id] = "withdrawn"
            self.withdrawn[job_id] += 1

    @rule(job_id=st.sampled_from(JOBS))
    def acknowledge(self, job_id: str) -> None:
        assert self.machine.deliveries.acknowledge(job_id) == (self.status.get(job_id) == "published")

    @rule(reached=st.booleans(), notes=st.booleans())
    def delete(self, reached: bool, notes: bool) -> None:
        over = self.machine.deliveries.next_to_delete()
        if over is None or over.next_attempt_at > self.clock():
            return
        assert over.status is not DeliveryStatus.PUBLISHED or not self.is_good(over)
        assert over.object_key is not None
        if not reached:
            self.machine.deliveries.postpone(over, self.clock() + HOUR / 12, over.reason)
            return
        self.store.pop(over.object_key, None)
        if notes:
            assert self.machine.deliveries.deleted(over) is not None
            self.status[over.job_id] = "deleted" if over.status is DeliveryStatus.PUBLISHED else over.status.value

    @invariant()
    def every_row_is_where_the_model_has_it(self) -> None:
        for job_id, status in self.status.items():
            assert self.machine.delivery(job_id).status == status

    @invariant()
    def no_object_is_lost_and_none_is_twice(self) -> None:
        rows = [self.machine.delivery(job_id) for job_id in self.status]
        known = {row.object_key: row.job_id for row in rows if row.object_key is not None}
        assert self.store.items() <= known.items()
        assert all(row.object_key is None for row in rows if row.status is DeliveryStatus.DELETED)
        good = [row for row in rows if row.status is DeliveryStatus.PUBLISHED and self.is_good(row)]
        assert {row.object_key for row in good} <= self.store.keys()

    @invariant()
    def everybody_is_told_once_of_everything(self) -> None:
        told = Counter(self.machine.notices())
        for job_id in JOBS:
            assert told["adapter_ready", job_id] == self.published[job_id]
            ended = self.published[job_id] + self.failed[job_id] + self.withdrawn[job_id]
            assert told["callback", job_id] == ended

    @invariant()
    def of_a_node_and_a_base_one_is_pending_at_most(self) -> None:
        assert [self.status.get(job_id) for job_id in ("job_1", "job_2")].count("pending") <= 1


TestDeliveryTable = DeliveryTable.TestCase
TestDeliveryTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
