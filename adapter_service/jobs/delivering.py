"""Between jobs and delivery: what the end of a node's job sets going, and what is there when it is asked for again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime

from adapter_service.adapters import Version, VersionStatus, VersionStore
from adapter_service.delivery import outbox
from adapter_service.delivery.deliveries import queue as queue_delivery
from adapter_service.delivery.outbox import NoticeKind
from adapter_service.jobs.job import Job, JobStatus


class Delivering:
    """Of the versions in `versions`, whose files are what is delivered."""

    def __init__(
        self,
        versions: VersionStore,
        *,
        is_resident: Callable[[str], bool] = lambda _: True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`is_resident` says of a base's identity whether it is the one that this service has."""
        self._versions = versions
        self._is_resident = is_resident
        self._now = now

    def when_ended(self, connection: sqlite3.Connection, job: Job) -> None:
        """Deliver what a node's job has made, in the transaction in which it ends; else say that nothing comes of it.

        Of two that end at nearly the same time the node gets the one that is live.
        """
        if job.node_id is None:
            return
        version = self._version_of(job)
        if version is not None and version.status is VersionStatus.LIVE:
            self._deliver(connection, job)
        else:
            outbox.queue_callback(connection, job.id, self._now())

    def bring(self, connection: sqlite3.Connection, job: Job) -> bool:
        """For `NodeJobs.submit`: have the version that `job` made live, and at its node, once more.

        False where it is gone, or of another base than this service has now.
        """
        version = self._version_of(job)
        if version is None or not self._is_resident(version.base_id):
            return False
        was_live = version.status is VersionStatus.LIVE
        if not was_live:
            self._versions.make_live(connection, version)
        is_on_its_way = self._deliver(connection, job)
        if not is_on_its_way and not was_live:  # the node has another one since, and is to be told of this
            outbox.queue(connection, NoticeKind.ADAPTER_READY, job.id, self._now())
        return True

    def _version_of(self, job: Job) -> Version | None:
        key = (job.result or {}).get("version_key")
        return self._versions.find(job.adapter, str(key)) if key is not None and went_live(job) else None

    def _deliver(self, connection: sqlite3.Connection, job: Job) -> bool:
        """Whether an upload follows; what can still be fetched stays as it is."""
        queue_delivery(
            connection,
            job_id=job.id,
            node_id=job.node_id or "",
            base_model_id=str(job.request["base_model_id"]),
            dataset_hash=str(job.request["dataset_hash"]),
            adapter=job.adapter,
            version_key=str((job.result or {})["version_key"]),
            at=self._now(),
        )
        row = connection.execute("SELECT status FROM deliveries WHERE job_id = ?", (job.id,)).fetchone()
        return bool(row["status"] == "pending")


def went_live(job: Job) -> bool:
    """Whether the job made a version that passed its gate."""
    return job.status is JobStatus.SUCCEEDED and (job.result or {}).get("version_status") == VersionStatus.LIVE
