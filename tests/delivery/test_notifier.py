"""Nodes are told where their adapters are: later when the broker is away, in order, never of what is gone."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from adapter_service.delivery import notifier as notifying
from adapter_service.delivery.mqtt import MemoryPublisher, Publisher
from adapter_service.delivery.notices import AdapterReady, Courier
from adapter_service.delivery.notifier import Notifier, waiting
from adapter_service.delivery.outbox import Notice, NoticeKind, NoticeStatus
from adapter_service.errors import BrokerAwayError, NoticeError
from tests.delivery.hub import SIGNED, Hub
from tests.waiting import eventually

READY, CALLBACK = NoticeKind.ADAPTER_READY, NoticeKind.CALLBACK
TOPIC = "jarvis/nodes/{node_id}/adapters"


@dataclass
class Moody(Publisher):
    """Raises what it is given first, and takes the rest."""

    faults: list[Exception] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    def publish(self, topic: str, payload: bytes, *, expires_in: timedelta) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.taken.append(json.loads(payload)["node_id"])


def ready(hub: Hub, publisher: Publisher) -> AdapterReady:
    return AdapterReady(hub.deliveries, hub.artifacts, publisher, topic=TOPIC, now=hub.clock)


def notifier_of(hub: Hub, **couriers: Courier) -> Notifier:
    by_kind = {NoticeKind(kind): courier for kind, courier in couriers.items()}
    return Notifier(hub.outbox, by_kind, first_wait_seconds=1, longest_wait_seconds=300, now=hub.clock)


def test_a_node_is_told_where_its_adapter_is_and_until_when(hub: Hub) -> None:
    published, publisher = hub.publish("kitchen"), MemoryPublisher()
    assert notifier_of(hub, adapter_ready=ready(hub, publisher)).notify_due() == 1
    ((topic, payload, expires_in),) = publisher.taken
    assert topic == "jarvis/nodes/kitchen/adapters"
    assert json.loads(payload) == {
        "event": "adapter_ready",
        "event_id": hub.only().event_id,
        "job_id": published.job_id,
        "node_id": "kitchen",
        "base_model_id": "small",
        "dataset_hash": published.dataset_hash,
        "adapter_url": hub.artifacts.url(str(published.object_key), node_id="kitchen", expires_at=hub.clock.now),
        "sha256": "0" * 64,
        "size_bytes": 7,
        "created_at": hub.clock.now.isoformat(),
        "expires_at": (hub.clock.now + timedelta(hours=48)).isoformat(),
    }
    assert expires_in == timedelta(hours=48)
    assert (hub.only().status, hub.only().attempts) == (NoticeStatus.SENT, 1)


def test_a_notice_that_is_refused_is_sent_again_and_others_do_not_wait(hub: Hub) -> None:
    for node in ("kitchen", "hall"):
        hub.publish(node)
    publisher = Moody([NoticeError("not authorized")])
    notifier = notifier_of(hub, adapter_ready=ready(hub, publisher))
    assert notifier.notify_due() == 2
    assert publisher.taken == ["hall"]
    assert "not authorized" in str(hub.notices()[0].reason)
    hub.clock.forward(seconds=2)
    assert notifier.notify_due() == 1
    assert publisher.taken == ["hall", "kitchen"]


def test_a_broker_that_is_away_is_asked_later_and_later_once_for_all(hub: Hub) -> None:
    for number in range(20):
        hub.publish(f"node{number}")
    publisher = Moody([BrokerAwayError("nobody there")] * 5)
    notifier = notifier_of(hub, adapter_ready=ready(hub, publisher))
    attempts = []
    for _ in range(5):
        attempts.append(notifier.notify_due())
        hub.clock.forward(seconds=25)
    assert attempts == [1] * 5
    assert notifier.notify_due() == 20
    assert len(publisher.taken) == 20


def test_waits_grow_from_the_first_to_the_longest_and_a_quarter() -> None:
    first, longest = timedelta(seconds=1), timedelta(seconds=300)
    waits = [waiting(attempt, first, longest) for attempt in (1, 2, 3, 9, 10, 4000)]
    expected = [1, 2, 4, 256, 300, 300]
    assert all(wanted <= wait.total_seconds() <= 1.25 * wanted for wait, wanted in zip(waits, expected, strict=True))


def test_of_what_can_be_fetched_no_longer_nobody_is_told(hub: Hub) -> None:
    publisher = MemoryPublisher()
    acknowledged = hub.publish("hall")
    hub.deliveries.acknowledge(acknowledged.job_id)
    deleted = hub.publish("attic")
    hub.deliveries.deleted(deleted)
    hub.publish("kitchen", hours=1)
    hub.clock.forward(hours=1)
    hub.queue(READY, hub.job("cellar"))
    assert notifier_of(hub, adapter_ready=ready(hub, publisher)).notify_due() == 4
    assert publisher.taken == []
    assert {notice.status for notice in hub.notices()} == {NoticeStatus.DROPPED}
    told = [notice.reason for notice in hub.notices()]
    for reason, words in zip(told, ("has it already", "is deleted", "has expired", "is not there"), strict=True):
        assert words in str(reason)


@pytest.mark.parametrize("node", ["a/b", "+", "#", "a\0b", "../x"])
def test_no_node_is_told_in_the_name_of_another(hub: Hub, node: str) -> None:
    hub.publish(node)
    publisher = MemoryPublisher()
    notifier_of(hub, adapter_ready=ready(hub, publisher)).notify_due()
    assert publisher.taken == []
    assert hub.only().status is NoticeStatus.DROPPED


def test_a_service_that_died_while_it_told_tells_again_with_the_same_id(hub: Hub) -> None:
    hub.publish()
    publisher = MemoryPublisher()

    class Dying(Courier):
        def deliver(self, notice: Notice) -> str | None:
            ready(hub, publisher).deliver(notice)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        notifier_of(hub, adapter_ready=Dying()).notify_due()
    notifier_of(hub, adapter_ready=ready(hub, publisher)).notify_due()
    first, second = (json.loads(payload)["event_id"] for _, payload, _ in publisher.taken)
    assert first == second


class Silent(Courier):
    def deliver(self, notice: Notice) -> str | None:
        raise NoticeError("not today")


def test_without_a_broker_what_nodes_are_to_be_told_waits_and_nothing_runs(hub: Hub) -> None:
    hub.publish()
    notifier = notifier_of(hub, callback=Silent())
    before = threading.active_count()
    notifier.start()
    assert threading.active_count() == before + 1  # the one of callbacks
    assert notifier.stop(10)
    assert hub.only().status is NoticeStatus.PENDING
    publisher = MemoryPublisher()
    assert notifier_of(hub, adapter_ready=ready(hub, publisher)).notify_due() == 1


def test_a_slow_broker_holds_up_no_callback_and_nothing_is_told_after_the_stop(hub: Hub) -> None:
    hub.publish(callback={"url": "https://hub.example.org/"})
    reached, called, go_on = threading.Event(), threading.Event(), threading.Event()

    class Slow(Courier):
        def deliver(self, notice: Notice) -> str | None:
            reached.set()
            assert go_on.wait(30)
            return None

    class Quick(Courier):
        def deliver(self, notice: Notice) -> str | None:
            called.set()
            return None

    notifier = notifier_of(hub, adapter_ready=Slow(), callback=Quick())
    notifier.start()
    assert reached.wait(30)
    assert called.wait(30)
    assert not notifier.stop(0)
    go_on.set()
    assert notifier.stop(30)


def test_what_is_queued_while_it_runs_is_told_when_it_is_woken(hub: Hub) -> None:
    publisher = MemoryPublisher()
    notifier = notifier_of(hub, adapter_ready=ready(hub, publisher))
    notifier.start()
    hub.publish()
    notifier.wake()
    eventually(lambda: publisher.taken, "the node is told", seconds=30)
    eventually(lambda: hub.only().status is NoticeStatus.SENT, "that is written down", seconds=30)
    assert notifier.stop(30)


def test_a_database_that_fails_is_asked_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifying, "LOOK_SECONDS", 0.01)
    publisher = MemoryPublisher()
    with hub.database.transaction() as connection:
        connection.execute("ALTER TABLE outbox RENAME TO lost")
        connection.execute("CREATE TABLE outbox (kind TEXT, status TEXT, next_attempt_at TEXT) STRICT")
    notifier = notifier_of(hub, adapter_ready=ready(hub, publisher))
    notifier.start()
    eventually(lambda: "looking again" in caplog.text, "the fault is logged", seconds=30)
    with hub.database.transaction() as connection:
        connection.execute("DROP TABLE outbox")
        connection.execute("ALTER TABLE lost RENAME TO outbox")
    hub.publish()
    eventually(lambda: publisher.taken, "the node is told", seconds=30)
    assert notifier.stop(30)


def test_no_url_and_no_words_of_an_unforeseen_error_reach_a_log(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hub.publish()
    url = hub.artifacts.url("x", node_id="kitchen", expires_at=hub.clock())
    publisher = Moody([RuntimeError(f"cannot send {url}"), NoticeError("not now")])
    notifier = notifier_of(hub, adapter_ready=ready(hub, publisher))
    for _ in range(3):
        notifier.notify_due()
        hub.clock.forward(minutes=10)
    assert hub.only().status is NoticeStatus.SENT
    assert "RuntimeError" in caplog.text
    assert SIGNED not in caplog.text
    assert all(SIGNED not in str(dict(row)) for row in hub.database.read("SELECT * FROM outbox"))
