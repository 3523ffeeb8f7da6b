"""The thread that packs, uploads and deletes nodes' adapters, again and again while their store is away.

What is to be done are rows (`deliveries`): a process that dies in an upload finds the row again, with the
key that the object has or will have, and goes on. What was packed is kept until it is published; nothing is
trained anew for an upload that failed.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from adapter_service.adapters import VersionStore
from adapter_service.delivery.artifact_store import Artifact, ArtifactStore, metadata_of, object_keys
from adapter_service.delivery.deliveries import Deliveries, Delivery, DeliveryStatus
from adapter_service.delivery.packing import PART_PREFIX, Recipient, TokenizerFiles, pack
from adapter_service.errors import (
    AdapterServiceError,
    NotReadyError,
    SettingsError,
    StorageError,
    StoreUnreachableError,
    UnknownAdapterError,
)
from adapter_service.publishing.copying import described_file
from adapter_service.publishing.manifest import StoredFile
from adapter_service.settings import ArtifactSettings
from adapter_service.storage_faults import storage_fault

# How soon a row is seen that nobody told of.
LOOK_SECONDS = 15.0
# A base that still loads is a matter of seconds.
LOADING_WAIT = timedelta(seconds=5)
FOLDER = "artifacts"
"""In the state folder: what is packed and not published yet."""

log = logging.getLogger(__name__)


class Deliverer:
    """Delivers what is pending, and deletes what is over, until it is stopped.

    `when_settled` is called on its thread when something was published, or failed for good: somebody is to
    be told.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        versions: VersionStore,
        artifacts: ArtifactStore,
        *,
        settings: ArtifactSettings,
        state_dir: Path,
        tokenizer_files: TokenizerFiles,
        when_settled: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._deliveries = deliveries
        self._versions = versions
        self._artifacts = artifacts
        self._settings = settings
        self._folder = state_dir / FOLDER
        self._tokenizer_files = tokenizer_files
        self._when_settled = when_settled
        self._now = now
        self._condition = threading.Condition()
        self._woken = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="deliverer", daemon=True)

    def start(self) -> None:
        """Go on with what waits, each at its time."""
        self.tidy()
        self._thread.start()

    def wake(self) -> None:
        """A delivery was queued, withdrawn or acknowledged: there may be something to do."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def stop(self, timeout: float | None = None) -> bool:
        """Begin nothing else, and wait; whether the thread has ended. What is under way goes on at the next start."""
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def tidy(self) -> None:
        """Remove what killed processes left half packed, and what is packed for no upload any more."""
        for left in self._folder.glob(f"{PART_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        for path in self._folder.glob("*.zip"):
            if not self._is_wanted(self._deliveries.get(path.stem)):
                path.unlink(missing_ok=True)

    def deliver_due(self) -> int:
        """Upload everything that is due now; how many attempts that were."""
        attempts = 0
        while not self._stopping.is_set() and (delivery := self._due(self._deliveries.next())) is not None:
            self._attempt(delivery)
            attempts += 1
        return attempts

    def delete_due(self) -> int:
        """Delete every object that is expired, acknowledged or not wanted; how many attempts that were."""
        attempts = 0
        while not self._stopping.is_set() and (over := self._due(self._deliveries.next_to_delete())) is not None:
            self._delete(over)
            attempts += 1
        return attempts

    def _loop(self) -> None:
        while not self._stopping.is_set():
            seconds = LOOK_SECONDS
            try:
                self.deliver_due()
                self.delete_due()
                seconds = self._until_next()
            except Exception:  # the thread has to outlive what nobody thought of
                if not self._stopping.is_set():  # else the database was closed under an upload that took too long
                    log.exception("delivering came to a halt; looking again in %s s", LOOK_SECONDS)
            with self._condition:
                self._condition.wait_for(lambda: self._woken, seconds)
                self._woken = False

    def _until_next(self) -> float:
        """Seconds until something is due, as far as this process knows."""
        waiting = (self._deliveries.next(), self._deliveries.next_to_delete())
        due = [(delivery.next_attempt_at - self._now()).total_seconds() for delivery in waiting if delivery is not None]
        return max(0.0, min([LOOK_SECONDS, *due]))

    def _due(self, delivery: Delivery | None) -> Delivery | None:
        return delivery if delivery is not None and delivery.next_attempt_at <= self._now() else None

    def _attempt(self, delivery: Delivery) -> None:
        begun = self._judged(self._begin, delivery)
        if begun is not None:
            self._judged(self._upload, begun)

    def _judged(self, step: Callable[[Delivery], Delivery | None], delivery: Delivery) -> Delivery | None:
        """What `step` makes of it; None when it comes later, or never, or is not wanted any more."""
        try:
            return step(delivery)
        except NotReadyError as error:
            self._postpone(delivery, LOADING_WAIT, str(error))
        except (StoreUnreachableError, StorageError, SettingsError) as error:
            self._postpone(delivery, self._wait, str(error))
        except AdapterServiceError as error:
            self._fail(delivery, str(error))
        except Exception as error:
            if self._stopping.is_set():
                return None
            if (fault := storage_fault(error)) is None:
                log.exception("delivering %s failed", _named(delivery), extra=_extra(delivery, "delivery_failed"))
            reason = f"unexpected {type(error).__name__}; the service's log has the traceback"
            self._postpone(delivery, self._wait, str(fault or reason))
        return None

    def _begin(self, delivery: Delivery) -> Delivery | None:
        """Pack it, and write down what will be uploaded, and where to."""
        packed = self._packed(delivery)
        if delivery.object_key is not None and delivery.sha256 != packed.sha256:
            # An earlier attempt may have left another packing of the same files there.
            self._artifacts.delete(delivery.object_key)
        keys = object_keys(self._artifacts.prefix, delivery, self._now())
        begun = self._deliveries.begin(delivery, keys, size_bytes=packed.size_bytes, sha256=packed.sha256)
        if begun is None:  # withdrawn meanwhile
            self._zip(delivery).unlink(missing_ok=True)
        return begun

    def _upload(self, delivery: Delivery) -> Delivery | None:
        if delivery.object_key is None or delivery.size_bytes is None or delivery.sha256 is None:
            raise AssertionError(f"{delivery.job_id} has not begun")
        artifact = Artifact(self._zip(delivery), delivery.size_bytes, delivery.sha256, metadata_of(delivery))
        if not self._artifacts.put(delivery.object_key, artifact):
            # Somebody else's, who shares the store: the next attempt has another name.
            reason = f"another object lies in {self._artifacts.shown} already"
            self._postpone(replace(delivery, object_key=None), self._wait, reason)
            return None
        expires_at = self._now() + timedelta(seconds=self._settings.url_seconds)
        published = self._deliveries.published(delivery, expires_at)
        if published is not None:
            log.info("published %s", _named(delivery), extra=_extra(delivery, "published"))
            self._zip(delivery).unlink(missing_ok=True)
            self._when_settled()
        return published

    def _packed(self, delivery: Delivery) -> StoredFile:
        """What is to be uploaded, from an earlier attempt or packed now."""
        path = self._zip(delivery)
        if path.is_file() and delivery.sha256 in {None, (kept := described_file(path)).sha256}:
            return kept
        version = self._versions.find(delivery.adapter, delivery.version_key)
        if version is None:
            raise UnknownAdapterError(
                f"the version {delivery.version_key[:12]} of {delivery.adapter!r} was removed; there is nothing to "
                "deliver any more: post the commands again"
            )
        return pack(
            version,
            Recipient(delivery.node_id, delivery.base_model_id, delivery.dataset_hash),
            path,
            tokenizer_files=self._tokenizer_files,
            max_bytes=self._settings.max_artifact_mb << 20,
        )

    def _postpone(self, delivery: Delivery, wait: timedelta, reason: str) -> None:
        until = self._now() + wait
        first = delivery.first_attempt_at or self._now()
        if until > first + timedelta(seconds=self._settings.give_up_seconds):
            self._fail(delivery, f"given up after {delivery.attempts + 1} attempts: {reason}")
            return
        if self._deliveries.postpone(delivery, until, reason) is not None:
            log.warning(
                "delivering %s: attempt %s came to nothing, the next in %s s: %s",
                _named(delivery), delivery.attempts + 1, round(wait.total_seconds()), reason,
                extra=_extra(delivery, "delivery_postponed"),
            )  # fmt: skip

    def _fail(self, delivery: Delivery, reason: str) -> None:
        if (failed := self._deliveries.failed(delivery, reason)) is None:
            return
        log.error("delivering %s failed: %s", _named(delivery), reason, extra=_extra(delivery, "delivery_failed"))
        if not self._is_wanted(failed):
            self._zip(delivery).unlink(missing_ok=True)
        self._when_settled()

    def _delete(self, delivery: Delivery) -> None:
        key = delivery.object_key
        if key is None:
            return
        try:
            self._artifacts.delete(key)
        except Exception as error:
            known, extra = isinstance(error, AdapterServiceError | OSError), _extra(delivery, "not_deleted")
            log.warning("%s cannot be deleted yet: %s", _named(delivery), error, exc_info=not known, extra=extra)
            self._deliveries.postpone(delivery, self._now() + self._wait, delivery.reason)
            return
        if self._deliveries.deleted(delivery) is not None:
            log.info("deleted %s", _named(delivery), extra=_extra(delivery, "deleted"))
        if delivery.status is DeliveryStatus.WITHDRAWN:
            self._zip(delivery).unlink(missing_ok=True)

    def _is_wanted(self, delivery: Delivery | None) -> bool:
        """Whether what is packed is still to be uploaded, or to be looked at by who develops."""
        if delivery is None:
            return False
        kept = self._settings.environment == "dev" and delivery.status is DeliveryStatus.FAILED
        return kept or delivery.status is DeliveryStatus.PENDING

    def _zip(self, delivery: Delivery) -> Path:
        return self._folder / f"{delivery.job_id}.zip"

    @property
    def _wait(self) -> timedelta:
        return timedelta(seconds=self._settings.retry_seconds)


def _named(delivery: Delivery) -> str:
    return f"the adapter of job {delivery.job_id}"


def _extra(delivery: Delivery, action: str) -> dict[str, str]:
    return {"action": action, "job_id": delivery.job_id}
