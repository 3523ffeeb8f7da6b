"""What a node is told: its adapter is ready, and where to fetch it.

The URL in it is signed when it is sent, kept nowhere and logged nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from adapter_service.commands import nodes
from adapter_service.delivery.artifact_store import ArtifactStore
from adapter_service.delivery.deliveries import Deliveries, DeliveryStatus
from adapter_service.delivery.mqtt import Publisher
from adapter_service.delivery.outbox import Notice
from adapter_service.errors import UnknownArtifactError


class Courier(Protocol):
    """Takes notices of one kind to whom they are for."""

    def deliver(self, notice: Notice) -> str | None:
        """Why nobody wants it any more, in which case nothing was sent; None once it was taken.

        Raises:
            NoticeError: it was not taken; it may be the next time.
            BrokerAwayError: nor would any other of the kind.
        """


class AdapterReady(Courier):
    """Publishes to the topics of nodes."""

    def __init__(
        self,
        deliveries: Deliveries,
        artifacts: ArtifactStore,
        publisher: Publisher,
        *,
        topic: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._deliveries = deliveries
        self._artifacts = artifacts
        self._publisher = publisher
        self._topic = topic
        self._now = now

    def deliver(self, notice: Notice) -> str | None:
        delivery = self._deliveries.get(notice.job_id)
        if delivery is None or delivery.status is not DeliveryStatus.PUBLISHED:
            found = "is not there" if delivery is None else f"is {delivery.status}"
            return f"the artifact of {notice.job_id} {found}; there is nothing to fetch"
        if delivery.acknowledged_at is not None:
            return "its node has it already"
        if delivery.expires_at is None or delivery.object_key is None or delivery.expires_at <= self._now():
            return f"the artifact of {notice.job_id} has expired; ask for the same commands again to have it published"
        if (fault := nodes.fault_of(delivery.node_id)) is not None:
            return fault  # it would be another topic
        try:
            url = self._artifacts.url(delivery.object_key, node_id=delivery.node_id, expires_at=delivery.expires_at)
        except UnknownArtifactError as error:
            return str(error)
        payload = {
            "event": notice.kind,
            "event_id": notice.event_id,
            "job_id": notice.job_id,
            "node_id": delivery.node_id,
            "base_model_id": delivery.base_model_id,
            "dataset_hash": delivery.dataset_hash,
            "adapter_url": url,
            "sha256": delivery.sha256,
            "size_bytes": delivery.size_bytes,
            "created_at": notice.created_at.isoformat(),
            "expires_at": delivery.expires_at.isoformat(),
        }
        self._publisher.publish(
            self._topic.replace("{node_id}", delivery.node_id),
            json.dumps(payload, ensure_ascii=False).encode(),
            expires_in=delivery.expires_at - self._now(),
        )
        return None
