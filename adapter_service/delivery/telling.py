"""From the settings to a notifier that can be started: who tells nodes, and who calls hubs back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from adapter_service.database import Database
from adapter_service.delivery.artifact_store import ArtifactStore
from adapter_service.delivery.callbacks import Callbacks
from adapter_service.delivery.deliveries import Deliveries
from adapter_service.delivery.mqtt import MqttPublisher
from adapter_service.delivery.notices import AdapterReady, Courier
from adapter_service.delivery.notifier import Notifier
from adapter_service.delivery.outbox import NoticeKind, Outbox
from adapter_service.settings.command_sections import MqttSettings


def open_notifier(
    database: Database,
    artifacts: ArtifactStore,
    mqtt: MqttSettings,
    *,
    callback_urls: Sequence[str],
    environ: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Notifier:
    """Nothing is connected to yet; without `mqtt.broker_url` what nodes are to be told waits until there is one."""
    deliveries = Deliveries(database, now)
    publisher = MqttPublisher(mqtt, environ)
    couriers: dict[NoticeKind, Courier] = {
        NoticeKind.CALLBACK: Callbacks(database, deliveries, artifacts, allowed=callback_urls, now=now)
    }
    if mqtt.broker_url is not None:
        ready = AdapterReady(deliveries, artifacts, publisher, topic=mqtt.topic, now=now)
        couriers[NoticeKind.ADAPTER_READY] = ready
    return Notifier(
        Outbox(database, now),
        couriers,
        first_wait_seconds=mqtt.first_wait_seconds,
        longest_wait_seconds=mqtt.longest_wait_seconds,
        now=now,
        close=publisher.close,
    )
