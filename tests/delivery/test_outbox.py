"""What is to be told is told in order and at least once, whatever happens in whatever order."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from adapter_service.delivery import outbox
from adapter_service.delivery.outbox import Notice, NoticeKind, NoticeStatus
from tests.delivery.hub import Hub

READY, CALLBACK = NoticeKind.ADAPTER_READY, NoticeKind.CALLBACK


def next_of(hub: Hub, kind: NoticeKind = READY) -> Notice:
    notice = hub.outbox.next(kind)
    assert notice is not None
    return notice


def queue_together(hub: Hub, *job_ids: str) -> None:
    with hub.database.transaction() as connection:
        for job_id in job_ids:
            outbox.queue(connection, READY, job_id, hub.clock())


def test_what_is_queued_is_due_at_once_under_an_id_of_its_own(hub: Hub) -> None:
    ids = {hub.queue(READY, hub.job(node)) for node in ("kitchen", "hall")}
    assert {notice.event_id for notice in hub.notices()} == ids
    assert next_of(hub).next_attempt_at == hub.clock.now


def test_what_is_told_of_and_the_telling_are_one_transaction(hub: Hub) -> None:
    job_id = hub.job()
    with pytest.raises(sqlite3.IntegrityError):
        queue_together(hub, job_id, "job_of_nobody")
    assert hub.outbox.list() == ()


def test_who_left_no_address_is_not_called_back(hub: Hub) -> None:
    assert hub.queue_callback(hub.job()) is None
    assert hub.queue_callback(hub.job("hall", callback={"url": "https://hub.example.org/"})) is not None


def test_one_kind_does_not_wait_for_another(hub: Hub) -> None:
    hub.queue(READY, hub.job())
    assert hub.outbox.next(CALLBACK) is None


def test_of_a_node_the_newer_waits_for_the_older(hub: Hub) -> None:
    older, newer, other = (hub.queue(READY, hub.job(node)) for node in ("kitchen", "kitchen", "hall"))
    hub.outbox.postpone(next_of(hub), hub.clock.now.replace(hour=20), "the broker is away")
    assert next_of(hub).event_id == other
    hub.outbox.sent(next_of(hub))
    assert next_of(hub).event_id == older
    hub.outbox.dropped(next_of(hub), "it has expired")
    assert next_of(hub).event_id == newer


def test_of_two_who_know_the_same_notice_only_the_first_moves_it(hub: Hub) -> None:
    hub.queue(READY, hub.job())
    known = next_of(hub)
    hub.outbox.sent(known)
    hub.outbox.postpone(known, hub.clock.now, "too late")
    assert (hub.only().status, hub.only().reason) == (NoticeStatus.SENT, None)


def test_at_the_start_everything_is_tried_at_once(hub: Hub) -> None:
    hub.queue(READY, hub.job())
    hub.outbox.postpone(next_of(hub), hub.clock.now.replace(hour=20), "the broker is away")
    hub.outbox.try_now(READY)
    assert next_of(hub).next_attempt_at == hub.clock.now


class OutboxLaws(RuleBasedStateMachine):
    """Queues, sends, postpones, drops and reopens, beside a model that is a list for each node."""

    known = Bundle("known")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "service.db"
        self.hub = Hub(self.path)
        self.pending: dict[str, list[str]] = {"kitchen": [], "hall": []}
        self.over: dict[str, NoticeStatus] = {}

    def teardown(self) -> None:
        self.hub.close()
        self.folder.cleanup()

    @rule(node=st.sampled_from(["kitchen", "hall"]))
    def queue(self, node: str) -> None:
        self.pending[node].append(self.hub.queue(READY, self.hub.job(node)))

    @rule(target=known)
    def look(self) -> Notice | None:
        return self.hub.outbox.next(READY)

    @rule(notice=known, how=st.sampled_from(["sent", "dropped", "postponed"]))
    def move(self, notice: Notice | None, how: str) -> None:
        """By someone whose knowledge may be old."""
        if notice is None:
            return
        is_fresh = any(now.number == notice.number and now.attempts == notice.attempts for now in self.hub.notices())
        if how == "postponed":
            self.hub.outbox.postpone(notice, self.hub.clock.now, "not now")
            return
        (self.hub.outbox.sent(notice) if how == "sent" else self.hub.outbox.dropped(notice, "gone"))
        if is_fresh and notice.event_id not in self.over:
            self.over[notice.event_id] = NoticeStatus(how)
            for waiting in self.pending.values():
                if notice.event_id in waiting:
                    waiting.remove(notice.event_id)

    @rule()
    def restart(self) -> None:
        jobs, clock = self.hub._jobs, self.hub.clock
        self.hub.close()
        self.hub = Hub(self.path)
        self.hub._jobs, self.hub.clock = jobs, clock

    @invariant()
    def none_is_lost_and_none_comes_back(self) -> None:
        found = {notice.event_id: notice.status for notice in self.hub.notices()}
        assert {event for event, status in found.items() if status is NoticeStatus.PENDING} == {
            event for waiting in self.pending.values() for event in waiting
        }
        assert {event: status for event, status in found.items() if status is not NoticeStatus.PENDING} == self.over

    @invariant()
    def the_next_is_the_oldest_of_its_node(self) -> None:
        notice = self.hub.outbox.next(READY)
        oldest = {waiting[0] for waiting in self.pending.values() if waiting}
        assert (notice.event_id in oldest) if notice is not None else not oldest


TestOutboxLaws = OutboxLaws.TestCase
TestOutboxLaws.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
