"""Recording beside other work: a bounded queue and a thread that writes.

Whoever records never waits: not for the disk, not for the scoring. When the queue is full, the newest
episode is dropped, counted and said.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rl.episodes import Episode, row_of
from rl.rewards import RewardSettings
from rl.shards import ShardWriter, seal_abandoned

log = logging.getLogger(__name__)

_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the start; `failed` are those that could not be made or written, `waiting` those in the queue."""

    recorded: int
    dropped: int
    failed: int
    waiting: int


@dataclass(frozen=True, slots=True)
class _Item:
    make: Callable[[], Episode]
    written: Future[Mapping[str, Any]] | None


class Recorder:
    """Scores and writes what it is handed, on a thread of its own."""

    def __init__(
        self,
        writer: ShardWriter,
        rewards: RewardSettings,
        *,
        capacity: int = 1000,
        sealed: Callable[[], None] = lambda: None,
    ) -> None:
        self._writer = writer
        self._rewards = rewards
        self._capacity = capacity
        self._sealed = sealed
        self._condition = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._stopping = False
        self._writing = False
        self._sealing = False
        self._recorded = self._dropped = self._failed = 0
        self._dropped_said = 0
        self._failing = False
        self._synced_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="episodes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Write what waits, seal the shard and end the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def record(self, make: Callable[[], Episode]) -> bool:
        """Hand over one episode; `make` is called on the writing thread. False: the queue is full, it is dropped."""
        if self._put([_Item(make, None)]):
            return True
        with self._condition:
            self._dropped += 1
        return False

    def record_all(self, makes: Sequence[Callable[[], Episode]]) -> list[Future[Mapping[str, Any]]] | None:
        """Hand over all, for one who waits: each future has the row once it is written, or why it was not.

        None: there is no room for all of them, and none is taken.
        """
        items = [_Item(make, Future()) for make in makes]
        return [item.written for item in items if item.written] if self._put(items) else None

    def _put(self, items: Sequence[_Item]) -> bool:
        with self._condition:
            if len(self._queue) + len(items) > self._capacity or self._stopping:
                return False
            self._queue.extend(items)
            self._condition.notify_all()
            return True

    @property
    def counts(self) -> Counts:
        with self._condition:
            return Counts(self._recorded, self._dropped, self._failed, len(self._queue) + self._writing)

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until everything handed over is in a sealed shard; False when that took longer."""
        with self._condition:
            self._sealing = True
            self._condition.notify_all()
            return self._condition.wait_for(lambda: not self._sealing, timeout_seconds)

    def _run(self) -> None:
        self._guarded(self._seal_what_was_left)
        while (item := self._next()) is not None or not self._stopping:
            if item is not None:
                self._write(item)
            self._keep_house()
        self._say_what_was_dropped()
        self._guarded(self._seal)

    def _next(self) -> _Item | None:
        """The next to write; None after a while without one, so that what is old is sealed."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._stopping or self._sealing, _SYNC_SECONDS)
            if not self._queue:
                return None
            self._writing = True
            return self._queue.popleft()

    def _write(self, item: _Item) -> None:
        row: Mapping[str, Any] = {}

        def write() -> None:
            nonlocal row
            row = row_of(item.make(), self._recorded, self._rewards)
            if self._writer.append(row) is not None:
                self._sealed()

        fault = self._guarded(write)
        written = fault is None
        if written and self._failing:
            log.warning("episodes are recorded again; %d were not", self._failed, extra={"action": "episodes_again"})
        self._failing = not written
        with self._condition:
            self._writing = False
            self._recorded += written
            self._failed += not written
        if item.written is not None:
            item.written.set_result(row) if fault is None else item.written.set_exception(fault)

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now - self._synced_at >= _SYNC_SECONDS:
            self._synced_at = now
            self._guarded(self._writer.sync)
            self._say_what_was_dropped()
        if self._guarded(self._seal_if_due) is None and self._sealing and not self._queue:
            self._guarded(self._seal)
            with self._condition:
                self._sealing = False
                self._condition.notify_all()

    def _seal_what_was_left(self) -> None:
        if seal_abandoned(self._writer.folder):
            self._sealed()

    def _seal_if_due(self) -> None:
        if self._writer.seal_if_due() is not None:
            self._sealed()

    def _seal(self) -> None:
        if self._writer.seal() is not None:
            self._sealed()

    def _guarded(self, step: Callable[[], None]) -> Exception | None:
        """Do it; a full disk, or an episode that cannot be written, ends the recording of no other."""
        try:
            step()
        except Exception as error:
            if not self._failing:  # a full disk would fill the log as well
                log.exception("episodes are not recorded", extra={"action": "episode_failed"})
            return error
        return None

    def _say_what_was_dropped(self) -> None:
        with self._condition:
            new, self._dropped_said = self._dropped - self._dropped_said, self._dropped
        if new:
            log.warning(
                "%d episodes were not recorded: the queue of %d was full; %d in all",
                new, self._capacity, self._dropped, extra={"action": "episodes_dropped"},
            )  # fmt: skip
