"""The threads that tell what is to be told, again and again while nobody takes it.

What is to be told are rows (`outbox`): a process that dies finds them again. Each kind has a thread of its own, so
that neither a slow broker nor a slow callback holds up the other; nothing is trained anew because a notice failed.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic

from adapter_service.delivery.notices import Courier
from adapter_service.delivery.outbox import Notice, NoticeKind, Outbox
from adapter_service.errors import AdapterServiceError, BrokerAwayError

# How soon a row is seen that another process wrote.
LOOK_SECONDS = 15.0
# After so long a callback is given up; what a node is to fetch expires by itself.
GIVE_UP: Mapping[NoticeKind, timedelta] = {NoticeKind.CALLBACK: timedelta(days=3)}

log = logging.getLogger(__name__)


class Notifier:
    """Has every kind of notices told by its courier until it is stopped; those of a kind without one wait."""

    def __init__(
        self,
        outbox: Outbox,
        couriers: Mapping[NoticeKind, Courier],
        *,
        first_wait_seconds: float,
        longest_wait_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """`close` is called when it stops; whatever a courier then waits for comes to nothing."""
        self._close = close
        waits = timedelta(seconds=first_wait_seconds), timedelta(seconds=longest_wait_seconds)
        self._lanes = tuple(_Lane(outbox, kind, courier, waits, now) for kind, courier in couriers.items())

    def start(self) -> None:
        """Try at once what waits, and go on."""
        for lane in self._lanes:
            lane.start()

    def wake(self) -> None:
        """Something was queued."""
        for lane in self._lanes:
            lane.wake()

    def stop(self, timeout: float | None = None) -> bool:
        """Tell nothing more, and wait; whether all has ended. What is under way is told again at the next start."""
        deadline = None if timeout is None else monotonic() + timeout
        for lane in self._lanes:
            lane.ask_to_stop()
        self._close()
        going_on = [lane for lane in self._lanes if not lane.join(deadline)]
        return not going_on

    def notify_due(self) -> int:
        """Try everything that is due now, in this thread; how many attempts that were."""
        return sum(lane.notify_due() for lane in self._lanes)


class _Lane:
    def __init__(
        self,
        outbox: Outbox,
        kind: NoticeKind,
        courier: Courier,
        waits: tuple[timedelta, timedelta],
        now: Callable[[], datetime],
    ) -> None:
        self._outbox = outbox
        self._kind = kind
        self._courier = courier
        self._waits = waits
        self._now = now
        # Of a broker that is away: each notice would only find that out again.
        self._times_away = 0
        self._away_until: datetime | None = None
        self._condition = threading.Condition()
        self._woken = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"notifier of {kind}", daemon=True)

    def start(self) -> None:
        self._outbox.try_now(self._kind)
        self._thread.start()

    def wake(self) -> None:
        with self._condition:
            self._woken = True
            self._condition.notify()

    def ask_to_stop(self) -> None:
        self._stopping.set()
        self.wake()

    def join(self, deadline: float | None) -> bool:
        if self._thread.is_alive():
            self._thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        return not self._thread.is_alive()

    def notify_due(self) -> int:
        attempts = 0
        while not self._stopping.is_set() and (notice := self._due()) is not None:
            self._attempt(notice)
            attempts += 1
        return attempts

    def _loop(self) -> None:
        while not self._stopping.is_set():
            seconds = LOOK_SECONDS
            try:
                self.notify_due()
                seconds = self._until_next()
            except sqlite3.Error:
                if self._stopping.is_set():  # the database was closed under an attempt that took too long
                    return
                log.exception("what is to be told is not known; looking again in %s s", LOOK_SECONDS)
            with self._condition:
                self._condition.wait_for(lambda: self._woken, seconds)
                self._woken = False

    def _until_next(self) -> float:
        """Seconds until something is due, as far as this process knows."""
        notice = self._outbox.next(self._kind)
        if notice is None:
            return LOOK_SECONDS
        at = max(notice.next_attempt_at, self._away_until or notice.next_attempt_at)
        return min(LOOK_SECONDS, max(0.0, (at - self._now()).total_seconds()))

    def _due(self) -> Notice | None:
        now = self._now()
        if self._away_until is not None and now < self._away_until:
            return None
        notice = self._outbox.next(self._kind)
        return notice if notice is not None and notice.next_attempt_at <= now else None

    def _attempt(self, notice: Notice) -> None:
        try:
            reason = self._courier.deliver(notice)
        except BrokerAwayError as error:
            if self._stopping.is_set():  # it is we who went
                return
            self._times_away += 1
            wait = waiting(self._times_away, *self._waits)
            self._away_until = self._now() + wait
            self._postpone(notice, str(error), wait)
        except AdapterServiceError as error:
            self._postpone(notice, str(error), waiting(notice.attempts + 1, *self._waits))
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - logged, but without its message: a signed URL or a secret may be in it
            frames = "".join(traceback.format_tb(error.__traceback__))
            kind = type(error).__name__
            log.error("telling %s of %s failed: %s\n%s", notice.kind, notice.job_id, kind, frames)
            reason = f"unexpected {kind}; the service's log says where"
            self._postpone(notice, reason, waiting(notice.attempts + 1, *self._waits))
        else:
            if reason is None:
                self._times_away, self._away_until = 0, None
                log.info("told %s of %s", notice.kind, notice.job_id, extra={"action": "notice_sent"})
                self._outbox.sent(notice)
            else:
                self._drop(notice, reason)

    def _postpone(self, notice: Notice, reason: str, wait: timedelta) -> None:
        give_up = GIVE_UP.get(notice.kind)
        if give_up is not None and self._now() + wait - notice.created_at > give_up:
            self._drop(notice, f"given up after {notice.attempts + 1} attempts: {reason}")
            return
        log.warning(
            "telling %s of %s: attempt %s came to nothing, the next in %s s: %s",
            notice.kind, notice.job_id, notice.attempts + 1, round(wait.total_seconds(), 1), reason,
            extra={"action": "notice_postponed"},
        )  # fmt: skip
        self._outbox.postpone(notice, self._now() + wait, reason)

    def _drop(self, notice: Notice, reason: str) -> None:
        log.warning("nobody is told %s of %s: %s", notice.kind, notice.job_id, reason, extra={"action": "dropped"})
        self._outbox.dropped(notice, reason)


def waiting(attempt: int, first: timedelta, longest: timedelta) -> timedelta:
    """How long after the `attempt`th one: `first`, twice that, … `longest`, each up to a quarter more.

    The part by chance keeps many services from coming back to a broker at the same moment.
    """
    doubled = first * 2.0 ** min(attempt - 1, 30)
    return min(doubled, longest) * (1 + random.random() / 4)  # noqa: S311 - nothing secret
