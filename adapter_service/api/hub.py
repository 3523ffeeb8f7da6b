"""The parts that serve a home hub's nodes: their jobs, their adapters on the way to them, and who tells them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from adapter_service.adapters import VersionStore
from adapter_service.api.errors import without_paths
from adapter_service.api.node_routers import NodeRouters
from adapter_service.database import Database
from adapter_service.delivery.artifact_store import ArtifactStore
from adapter_service.delivery.callbacks import Callbacks
from adapter_service.delivery.deliverer import Deliverer
from adapter_service.delivery.deliveries import Deliveries
from adapter_service.delivery.mqtt import MqttPublisher
from adapter_service.delivery.notices import AdapterReady, Courier
from adapter_service.delivery.notifier import Notifier
from adapter_service.delivery.opening import open_artifacts
from adapter_service.delivery.outbox import NoticeKind, Outbox
from adapter_service.delivery.tokenizers import tokenizer_of
from adapter_service.engine.engine import Engine
from adapter_service.jobs.delivering import Delivering
from adapter_service.jobs.node_jobs import NodeJobs
from adapter_service.jobs.store import JobStore
from adapter_service.settings import ServingSettings, Settings

_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True, slots=True)
class Hub:
    """Started and stopped with the service."""

    jobs: NodeJobs
    delivering: Delivering
    deliveries: Deliveries
    artifacts: ArtifactStore
    deliverer: Deliverer
    notifier: Notifier
    routers: NodeRouters

    def start(self) -> None:
        self.deliverer.start()
        self.notifier.start()

    def wake(self) -> None:
        """Something is to be delivered, deleted or told, or is not any more."""
        self.deliverer.wake()
        self.notifier.wake()

    def stop(self, timeout: float) -> None:
        """What is under way goes on at the next start."""
        ends_at = time.monotonic() + timeout
        self.deliverer.stop(timeout)
        self.notifier.stop(max(0.0, ends_at - time.monotonic()))


def build_hub(settings: Settings, database: Database, jobs: JobStore, versions: VersionStore, engine: Engine) -> Hub:
    """Make all of them; nothing is started or connected to yet."""
    state_dir = settings.storage.state_dir
    node_jobs, deliveries, delivering = NodeJobs(database, jobs), Deliveries(database), _delivering(versions, engine)
    artifacts = open_artifacts(settings.artifacts, state_dir, service_url=service_url(settings.serving))
    allowed = settings.commands.callback_urls
    callbacks = Callbacks(database, deliveries, artifacts, allowed=allowed, without_paths=without_paths)
    couriers: dict[NoticeKind, Courier] = {NoticeKind.CALLBACK: callbacks}
    publisher = None if settings.mqtt.broker_url is None else MqttPublisher(settings.mqtt)
    if publisher is not None:
        couriers[NoticeKind.ADAPTER_READY] = AdapterReady(deliveries, artifacts, publisher, topic=settings.mqtt.topic)
    notifier = Notifier(
        Outbox(database),
        couriers,
        first_wait_seconds=settings.mqtt.first_wait_seconds,
        longest_wait_seconds=settings.mqtt.longest_wait_seconds,
        close=publisher.close if publisher is not None else _nothing,
    )
    deliverer = Deliverer(
        deliveries,
        versions,
        artifacts,
        settings=settings.artifacts,
        state_dir=state_dir,
        tokenizer_files=tokenizer_of(engine),
        when_settled=notifier.wake,
    )
    jobs.when_ended(delivering.when_ended)
    routers = NodeRouters(node_jobs, jobs, settings.commands, engine.embeddings)
    return Hub(node_jobs, delivering, deliveries, artifacts, deliverer, notifier, routers)


def _delivering(versions: VersionStore, engine: Engine) -> Delivering:
    # While it loads nothing is known; a version of another base is then found out when it is packed.
    return Delivering(versions, is_resident=lambda base: engine.state != "ready" or engine.base.identity == base)


def service_url(serving: ServingSettings) -> str:
    """What this service is reached by where the settings have no address for others."""
    host = "127.0.0.1" if serving.host in _EVERYWHERE else serving.host
    return f"http://{f'[{host}]' if ':' in host else host}:{serving.port}"


def _nothing() -> None:
    """There is no connection to close."""
