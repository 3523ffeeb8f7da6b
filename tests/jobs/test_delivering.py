"""What the end of a node's job sets going, and what asking for the same again brings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_service.adapters import VersionStore
from adapter_service.commands.training_request import CommandTraining
from adapter_service.database import Database
from adapter_service.delivery.deliveries import Deliveries, DeliveryStatus
from adapter_service.delivery.outbox import NoticeKind, Outbox
from adapter_service.errors import RateLimitedError
from adapter_service.jobs.delivering import Delivering
from adapter_service.jobs.job import Job, JobStatus
from adapter_service.jobs.node_jobs import Limits, NodeJobs, Submitted
from adapter_service.jobs.store import JobStore

BASE = "base"


class Home:
    """The tables of a hub, with jobs that train at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resident = BASE
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.database = Database(folder / "service.db")
        self.store = JobStore(self.database, self.clock)
        self.jobs = NodeJobs(self.database, self.store, self.clock)
        self.versions = VersionStore(self.database, folder / "adapters", self.clock)
        self.deliveries, self.outbox = Deliveries(self.database, self.clock), Outbox(self.database, self.clock)
        is_resident = lambda base: base == self.resident  # noqa: E731
        self.delivering = Delivering(self.versions, is_resident=is_resident, now=self.clock)
        self.store.when_ended(self.delivering.when_ended)

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def post(self, content: str, *, per_hour: int = 99, name: str | None = None) -> Submitted:
        training = CommandTraining("kitchen", "small", [content], content, "UTC")
        if name is not None:
            callback = {"url": f"http://{name}.example/", "token": name}
            training = replace(training, external_id=name, callback=callback)
        limits = Limits(99, per_hour)
        return self.jobs.submit(training, content, trace_id="t", limits=limits, bring=self.delivering.bring)

    def claim(self) -> Job:
        job = self.store.claim_next()
        assert job is not None
        return job

    def make_live(self, job: Job) -> dict[str, str]:
        """What the job's result says of the version that it has made live."""
        key = (str(job.content_key).encode().hex() * 16)[:16]
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (work / name).write_text("{}")
        made = self.versions.publish(job.adapter, work, key=key, job_id=job.id, base_id=BASE)
        self.versions.go_live(made)
        return {"version_status": "live", "version_key": key}

    def train(self, content: str, **more: str) -> Job:
        self.post(content, **more)  # type: ignore[arg-type]
        job = self.claim()
        return self.store.succeed(job, self.make_live(job))

    def publish(self) -> None:
        while (delivery := self.deliveries.next()) is not None:
            begun = self.deliveries.begin(delivery, iter([delivery.job_id]), size_bytes=1, sha256="0" * 64)
            assert begun is not None
            self.deliveries.published(begun, self.now + timedelta(days=1))

    def live(self) -> str:
        version = self.versions.live("node-kitchen")
        assert version is not None
        return str(self.store.get(str(version.job_id)).content_key)

    def callbacks(self) -> list[str | None]:
        return [notice.alias for notice in self.outbox.list() if notice.kind is NoticeKind.CALLBACK]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.database.close()


def test_what_goes_live_is_delivered(home: Home) -> None:
    job = home.train("a")
    delivery = home.deliveries.get(job.id)
    assert delivery is not None
    assert (delivery.status, delivery.node_id, delivery.dataset_hash) == (DeliveryStatus.PENDING, "kitchen", "a")


def test_going_back_to_older_commands_makes_them_live_and_tells_the_node(home: Home) -> None:
    first = home.train("a")
    home.publish()
    home.train("b")
    home.publish()
    assert home.live() == "b"
    again = home.post("a")
    assert (again.deduped, again.job.id, home.live()) == (True, first.id, "a")
    told = [notice.job_id for notice in home.outbox.list() if notice.kind is NoticeKind.ADAPTER_READY]
    assert told[-1] == first.id


def test_a_refused_request_changes_nothing_that_is_live(home: Home) -> None:
    home.train("a")
    home.train("b", name="hub-1")
    with pytest.raises(RateLimitedError):
        home.post("c", per_hour=1)
    with pytest.raises(Exception, match="hub-1"):
        home.post("a", name="hub-1")
    assert home.live() == "b"


def test_a_version_of_another_base_is_trained_anew(home: Home) -> None:
    home.train("a")
    home.resident = "another base"
    assert not home.post("a").deduped


def test_a_removed_version_is_trained_anew(home: Home) -> None:
    job = home.train("a")
    version = home.versions.live("node-kitchen")
    assert version is not None
    home.versions.remove(version, force=True)
    again = home.post("a")
    assert (again.deduped, again.job.id == job.id) == (False, False)


def test_of_two_that_end_together_the_node_gets_the_one_that_is_live(home: Home) -> None:
    home.train("a")
    home.publish()
    home.post("b")
    late = home.claim()
    result = home.make_live(late)
    home.post("a")  # before the late one has written that it has ended
    ended = home.store.succeed(late, result)
    assert (home.live(), ended.status) == ("a", JobStatus.SUCCEEDED)
    assert home.deliveries.get(late.id) is None


def test_a_second_hub_is_called_back_with_the_first_while_the_job_is_not_done(home: Home) -> None:
    home.post("a", name="hub-1")
    assert home.post("a", name="hub-2").deduped
    job = home.claim()
    home.store.succeed(job, home.make_live(job))
    assert home.callbacks() == []
    home.publish()
    assert sorted(map(str, home.callbacks())) == ["None", "hub-2"]


def test_a_second_hub_is_called_back_at_once_where_the_job_is_done(home: Home) -> None:
    home.train("a", name="hub-1")
    home.publish()
    assert home.post("a", name="hub-2").deduped
    assert home.callbacks() == [None, "hub-2"]
