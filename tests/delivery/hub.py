"""A state database with jobs of nodes in it, and adapters that lie somewhere: what is told of, without what tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adapter_service.database import Database
from adapter_service.delivery import deliveries, outbox
from adapter_service.delivery.artifact_store import Artifact, ArtifactStore
from adapter_service.delivery.deliveries import Deliveries, Delivery
from adapter_service.delivery.outbox import Notice, NoticeKind, Outbox
from adapter_service.jobs.job import Job, JobStatus
from adapter_service.jobs.rows import INSERT, encode, to_columns

START = datetime(2030, 1, 7, 12, tzinfo=UTC)
SIGNED = "c2lnbmVk-canary"
"""Stands in every URL, and nowhere else."""


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **how_far: float) -> None:
        self.now += timedelta(**how_far)


@dataclass
class Shelf(ArtifactStore):
    """Signs what it is asked for; nothing lies on it."""

    prefix: str = ""
    shown: str = "a shelf"
    url_of: Mapping[str, str] = field(default_factory=dict)

    def put(self, key: str, artifact: Artifact) -> bool:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError

    def url(self, key: str, *, node_id: str, expires_at: datetime) -> str:
        return self.url_of.get(key, f"https://artifacts.example.org/{key}/{SIGNED}")


class Hub:
    """Jobs, deliveries and notices of one service, by one clock."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.database = Database(path)
        self.deliveries = Deliveries(self.database, self.clock)
        self.outbox = Outbox(self.database, self.clock)
        self.artifacts = Shelf()
        self._jobs = 0

    def close(self) -> None:
        self.database.close()

    def job(
        self,
        node_id: str = "kitchen",
        *,
        status: JobStatus = JobStatus.SUCCEEDED,
        callback: Mapping[str, str] | None = None,
        **more: Any,
    ) -> str:
        """A finished job, of which nobody was told."""
        self._jobs += 1
        request = {"node_id": node_id, "base_model_id": "small", "callback": callback, **more.pop("request", {})}
        job = Job(
            id=f"job_{self._jobs}",
            adapter=f"node-{node_id}",
            request=request,
            trace_id="t",
            created_at=self.clock() - timedelta(minutes=11),
            started_at=self.clock() - timedelta(minutes=10),
            finished_at=self.clock(),
            status=status,
            node_id=node_id,
            attempt=1,
            **more,
        )
        columns = to_columns(job) | {"idempotency_key": None}
        with self.database.transaction() as connection:
            connection.execute(INSERT, {key: encode(value) for key, value in columns.items()})
        return job.id

    def publish(
        self, node_id: str = "kitchen", *, sha256: str = "0" * 64, size_bytes: int = 7, hours: float = 48, **more: Any
    ) -> Delivery:
        """A job whose adapter was published just now, so that its node and who asked for it are to be told."""
        job_id = self.job(node_id, **more)
        with self.database.transaction() as connection:
            deliveries.queue(
                connection,
                job_id=job_id,
                node_id=node_id,
                base_model_id="small",
                dataset_hash=f"{self._jobs:064x}",
                adapter=f"node-{node_id}",
                version_key="1" * 64,
                at=self.clock(),
            )
        begun = self.deliveries.begin(
            self.deliveries_of(job_id), [f"{node_id}/{job_id}/adapter.zip"], size_bytes=size_bytes, sha256=sha256
        )
        assert begun is not None
        published = self.deliveries.published(begun, self.clock() + timedelta(hours=hours))
        assert published is not None
        return published

    def deliveries_of(self, job_id: str) -> Delivery:
        delivery = self.deliveries.get(job_id)
        assert delivery is not None
        return delivery

    def queue(self, kind: NoticeKind, job_id: str) -> str:
        with self.database.transaction() as connection:
            return outbox.queue(connection, kind, job_id, self.clock())

    def queue_callback(self, job_id: str) -> str | None:
        with self.database.transaction() as connection:
            return outbox.queue_callback(connection, job_id, self.clock())

    def notices(self, kind: NoticeKind = NoticeKind.ADAPTER_READY) -> list[Notice]:
        return [notice for notice in self.outbox.list() if notice.kind is kind]

    def only(self, kind: NoticeKind = NoticeKind.ADAPTER_READY) -> Notice:
        (notice,) = self.notices(kind)
        return notice
