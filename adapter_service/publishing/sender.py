"""The thread that pushes what went live to the configured stores, again and again while they are away.

What is to be done are rows (`adapters.uploads`): a process that dies in an upload finds the row again
and the push goes on where it was. Nothing is ever trained anew for a push that failed.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from adapter_service.adapters import VersionStore
from adapter_service.adapters.uploads import Upload, Uploads
from adapter_service.errors import AdapterServiceError, SettingsError, StoreUnreachableError
from adapter_service.publishing.pushing import push
from adapter_service.publishing.store import Store

FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(hours=1)
# How soon a row is seen that another process wrote (`adapter-service adapters pull --live`).
LOOK_SECONDS = 15.0

OpenStore = Callable[[], Store]

log = logging.getLogger(__name__)


class Sender:
    """Pushes what is pending in `uploads` to `stores` (by name, opened when they are needed) until it is stopped."""

    def __init__(
        self,
        uploads: Uploads,
        versions: VersionStore,
        stores: Mapping[str, OpenStore],
        *,
        max_attempts: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._uploads = uploads
        self._versions = versions
        self._stores = dict(stores)
        self._max_attempts = max_attempts
        self._now = now
        self._condition = threading.Condition()
        self._woken = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sender", daemon=True)

    def start(self) -> None:
        """Try at once what waits, and go on; without stores there is nothing to do."""
        self._uploads.forget_other_stores(list(self._stores))
        if self._stores:
            self._uploads.try_now()
            self._thread.start()

    def wake(self) -> None:
        """A version went live: there may be something to push."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def stop(self, timeout: float | None = None) -> bool:
        """Begin no other file, and wait; whether the thread has ended. What is under way goes on at the next start."""
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def send_due(self) -> int:
        """Push everything that is due now; how many attempts that were."""
        attempts = 0
        while not self._stopping.is_set() and (upload := self._due()) is not None:
            self._attempt(upload)
            attempts += 1
        return attempts

    def _loop(self) -> None:
        while not self._stopping.is_set():
            seconds = LOOK_SECONDS
            try:
                self.send_due()
                seconds = self._until_next()
            except sqlite3.Error:
                log.exception("what is to be pushed is not known; looking again in %s s", LOOK_SECONDS)
            with self._condition:
                self._condition.wait_for(lambda: self._woken, seconds)
                self._woken = False

    def _until_next(self) -> float:
        """Seconds until something is due, as far as this process knows."""
        upload = self._uploads.next()
        if upload is None:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(0.0, (upload.next_attempt_at - self._now()).total_seconds()))

    def _due(self) -> Upload | None:
        upload = self._uploads.next()
        return upload if upload is not None and upload.next_attempt_at <= self._now() else None

    def _attempt(self, upload: Upload) -> None:
        name = f"{upload.reference} to {upload.store!r}"
        if upload.store not in self._stores:  # queued by a command that reads a newer configuration than this process
            self._postpone(upload, f"this service was started without a store {upload.store!r}; restart it")
            return
        try:
            store = self._stores[upload.store]()
            pushed = push(self._versions.resolve(upload.reference), store, self._stopping.is_set)
        except (StoreUnreachableError, SettingsError) as error:
            self._postpone(upload, str(error))
        except AdapterServiceError as error:
            log.error("pushing %s failed: %s", name, error, extra={"action": "push_failed"})
            self._uploads.failed(upload, str(error))
        except Exception as error:
            if self._stopping.is_set():  # the database was closed under an upload that took too long
                return
            log.exception("pushing %s failed", name, extra={"action": "push_failed"})
            self._postpone(upload, f"unexpected {type(error).__name__}; the service's log has the traceback")
        else:
            if pushed is not None:
                sent = f"{len(pushed.sent)} files sent, {len(pushed.found)} were there"
                log.info("pushed %s: %s", name, sent, extra={"action": "pushed"})
                self._uploads.pushed(upload)

    def _postpone(self, upload: Upload, reason: str) -> None:
        attempt = upload.attempts + 1
        if attempt >= self._max_attempts:
            log.error("pushing %s to %s given up: %s", upload.reference, upload.store, reason)
            self._uploads.failed(upload, f"given up after {attempt} attempts: {reason}")
            return
        wait = waiting(attempt)
        log.warning(
            "pushing %s to %s: attempt %s came to nothing, the next in %s s: %s",
            upload.reference, upload.store, attempt, round(wait.total_seconds()), reason,
            extra={"action": "push_postponed"},
        )  # fmt: skip
        self._uploads.postpone(upload, self._now() + wait, reason)


def waiting(attempt: int) -> timedelta:
    """How long after the `attempt`th one: 5 s, 10 s, 20 s, … 1 h, each up to a quarter more.

    The part by chance keeps many machines from coming back to a share at the same moment.
    """
    doubled = FIRST_WAIT * 2.0 ** min(attempt - 1, 20)
    return min(doubled, LONGEST_WAIT) * (1 + random.random() / 4)  # noqa: S311 - nothing secret
