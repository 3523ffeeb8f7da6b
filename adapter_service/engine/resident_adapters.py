"""The adapters that are in memory, and how they get there: read ahead on another thread, taken in on the engine's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from adapter_service.engine.measures import Measures
from adapter_service.engine.reading import AdapterReader
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.residency import Residency
from adapter_service.errors import AdapterFormatError, AdapterServiceError, AdapterTooLargeError

if TYPE_CHECKING:
    from adapter_service.lora.resident import ResidentAdapter

Settled = Callable[[Exception | None], None]


class ResidentAdapters:
    """Loaded adapters by version key. `read` runs on a thread of its own and checks all that it reads.

    `wake` is called on that thread when something has arrived. All else is for the engine's thread.
    """

    def __init__(
        self,
        read: Callable[[AdapterFiles], ResidentAdapter],
        residency: Residency[ResidentAdapter],
        measures: Measures,
        wake: Callable[[], None],
    ) -> None:
        self._residency = residency
        self._measures = measures
        self._wanted_at: dict[str, float] = {}
        self._wake = wake
        self._arrived: deque[tuple[AdapterFiles, ResidentAdapter | Exception]] = deque()
        # Why those could not be had that will be tried again: told to whoever waits, and not remembered.
        self._faults: dict[str, Exception] = {}
        self._awaited: dict[str, list[Settled]] = {}
        self._reader = AdapterReader(read, self._deliver)

    @property
    def arrived(self) -> int:
        """How many have been read and are not yet taken in."""
        return len(self._arrived)

    def close(self, error: Exception) -> None:
        """Read no more; whoever waits for a pin is told why."""
        self._reader.close()
        for key in list(self._awaited):
            self._settle(key, error)

    def expect(self, files: Iterable[AdapterFiles]) -> None:
        """Have those read, in the order in which they will be used, for which there will be room.

        More of them would only drive each other out before anybody gets to use them.
        """
        expected = {one.key: one for one in files}
        for key in self._faults.keys() - expected.keys():  # whoever waited for it has left
            del self._faults[key]
        room = self._residency.max_adapters - self._residency.in_use
        for key in reversed(list(expected)[:room]):
            self._residency.touch(key)
        for one in list(expected.values())[:room]:
            self._want(one)

    def has_settled(self, files: AdapterFiles) -> bool:
        """Whether `acquire` has an answer."""
        return self._residency.state(files.key) in {"resident", "failed"} or files.key in self._faults

    def acquire(self, files: AdapterFiles) -> ResidentAdapter:
        """Use it until `release`.

        Raises:
            Exception: why it could not be read.
        """
        error = self._faults.pop(files.key, None) or self._residency.failure(files.key)
        if error is not None:
            raise error
        return self._residency.acquire(files.key)

    def release(self, key: str) -> None:
        self._residency.release(key)

    def pin(self, files: AdapterFiles, settled: Settled) -> None:
        """Keep it resident; `settled` is told once it is, or why it will not be."""
        try:
            self._residency.pin(files.key)
        except AdapterServiceError as error:
            settled(error)
            return
        self._faults.pop(files.key, None)  # whoever asks for it by name wants it tried again
        if self._residency.state(files.key) == "failed":
            self._residency.forget(files.key)
        if self._residency.state(files.key) == "resident":
            settled(None)
        else:
            self._awaited.setdefault(files.key, []).append(settled)
            self._want(files)

    def unpin(self, key: str) -> None:
        """Nothing where it is not pinned."""
        self._residency.unpin(key)

    def take_in(self) -> None:
        """Make resident what has arrived; what there is no room for yet waits."""
        for _ in range(len(self._arrived)):
            files, found = self._arrived.popleft()
            if isinstance(found, Exception):
                self._failed(files, found, lasts=isinstance(found, AdapterFormatError))
                continue
            try:
                if self._residency.add(files.key, found, found.size_bytes):
                    self._measures.adapter_loaded(time.monotonic() - self._wanted_at.pop(files.key))
                    self._settle(files.key, None)
                else:
                    self._arrived.append((files, found))
            except AdapterTooLargeError as error:
                # Pins may go, and leave room for it.
                self._failed(files, error, lasts=found.size_bytes > self._residency.max_bytes)

    def _want(self, files: AdapterFiles) -> None:
        if files.key not in self._faults and self._residency.begin_loading(files.key):
            self._wanted_at[files.key] = time.monotonic()
            self._reader.ask(files)

    def _deliver(self, files: AdapterFiles, found: ResidentAdapter | Exception) -> None:
        """On the reader's thread."""
        self._arrived.append((files, found))
        self._wake()

    def _failed(self, files: AdapterFiles, error: Exception, *, lasts: bool) -> None:
        """A version never changes: what its content is to blame for `lasts`. A disk may be better the next time."""
        key = files.key
        if isinstance(error, AdapterFormatError | AdapterTooLargeError):
            error = type(error)(f"{files.reference}: {error}")
        self._wanted_at.pop(key, None)
        self._residency.fail(key, error, remember=lasts)
        if not lasts:
            self._faults[key] = error.with_traceback(None)
        for _ in self._awaited.get(key, ()):  # each of them has pinned it
            self._faults.pop(key, None)
            self._residency.unpin(key)
        self._settle(key, error)

    def _settle(self, key: str, error: Exception | None) -> None:
        for settled in self._awaited.pop(key, ()):
            settled(error)
