"""Which adapters are in memory, and which go first when there is no room. Pure: what is kept is anything.

A key names content that never changes, so what was read once stays true, and what could not be read stays
so until somebody asks that it be tried again. Nothing in here knows threads: it is the engine's.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from adapter_service.errors import AdapterTooLargeError, TooManyPinsError

T = TypeVar("T")
State = Literal["absent", "loading", "resident", "failed"]

# Failures are small, but keys of versions that came and went would pile up for as long as the service runs.
_REMEMBERED_FAILURES = 1024
_LET_ONE_GO = "let one go (POST /v1/unload_lora_adapter, or take it from serving.pinned_adapters)"


@dataclass(slots=True)
class _Resident(Generic[T]):
    value: T
    size_bytes: int
    users: int = 0


class Residency(Generic[T]):
    """Adapters by key: at most `max_adapters` of at most `max_bytes` in all.

    One that is in use (`acquire` until `release`) or pinned never goes; of the others the one that was
    used longest ago goes first. `loads` and `evictions` count since the beginning.
    """

    def __init__(self, max_adapters: int, max_bytes: int) -> None:
        self.max_adapters = max_adapters
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.loads = 0
        self.evictions = 0
        self._resident: dict[str, _Resident[T]] = {}  # from the one used longest ago to the one used last
        self._loading: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._pinned: Counter[str] = Counter()

    def keys(self) -> list[str]:
        """Those that are resident, the one used longest ago first."""
        return list(self._resident)

    def __len__(self) -> int:
        return len(self._resident)

    def state(self, key: str) -> State:
        if key in self._resident:
            return "resident"
        if key in self._loading:
            return "loading"
        return "failed" if key in self._failed else "absent"

    def users(self, key: str) -> int:
        """How many hold it now."""
        return self._resident[key].users if key in self._resident else 0

    @property
    def in_use(self) -> int:
        """How many of those that are resident cannot go."""
        return sum(bool(one.users) or key in self._pinned for key, one in self._resident.items())

    def touch(self, key: str) -> None:
        """It will be used soon; nothing where it is not resident."""
        if key in self._resident:
            self._touch(key)

    # From absent to resident.

    def begin_loading(self, key: str) -> bool:
        """True when the caller shall have it read; False when it is there, somebody reads it, or it has failed."""
        if self.state(key) != "absent":
            return False
        self._loading.add(key)
        return True

    def add(self, key: str, value: T, size_bytes: int) -> bool:
        """Keep what was read, and let go of as many others as that takes.

        Returns:
            False, with nothing changed, when there is no room until somebody releases one. One that is
            resident already stays as it is: its content is the same.

        Raises:
            AdapterTooLargeError: there would be no room with all others gone but the pinned ones.
        """
        if key in self._resident:
            return True
        self._refuse_too_large(size_bytes)
        leaving = self._leaving_for(size_bytes)
        if leaving is None:
            return False
        for other in leaving:
            self._remove(other)
        self.evictions += len(leaving)
        self.loads += 1
        self._loading.discard(key)
        self._failed.pop(key, None)
        self._resident[key] = _Resident(value, size_bytes)
        self.size_bytes += size_bytes
        return True

    def fail(self, key: str, error: Exception, *, remember: bool) -> None:
        """It could not be read. `remember` what its content is to blame for; a disk may be better the next time."""
        self._loading.discard(key)
        if remember and key not in self._resident:
            self._failed[key] = copy.copy(error)  # without traceback and cause, whose frames have what was read
            while len(self._failed) > _REMEMBERED_FAILURES:
                self._failed.pop(next(iter(self._failed)))

    def failure(self, key: str) -> Exception | None:
        """Why it cannot be had; each time an error of its own, because raising one adds to its traceback."""
        error = self._failed.get(key)
        return copy.copy(error) if error else None

    def forget(self, key: str) -> None:
        """Let a failed one be tried again, or give up one that was to be loaded; a resident one stays."""
        self._failed.pop(key, None)
        self._loading.discard(key)

    def has_room(self, size_bytes: int) -> bool:
        """Whether one more of that size would be kept without any other's going."""
        return len(self) < self.max_adapters and self.size_bytes + size_bytes <= self.max_bytes

    def remove(self, key: str) -> bool:
        """Let it go now; False where it is in use, pinned or not resident."""
        if key not in self._resident or self._resident[key].users or key in self._pinned:
            return False
        self._remove(key)
        self.evictions += 1
        return True

    # In use.

    def acquire(self, key: str) -> T:
        """Use one that is resident, and keep it until `release`.

        Raises:
            KeyError: it is not resident.
        """
        resident = self._touch(key)
        resident.users += 1
        return resident.value

    def release(self, key: str) -> None:
        """End one use; as the use ends now, it was used last.

        Raises:
            ValueError: nobody holds it.
        """
        if not self.users(key):
            raise ValueError(f"{key} is released more often than it was acquired")
        self._touch(key).users -= 1

    # Pins.

    def pin(self, key: str) -> None:
        """Once it is loaded, keep it until it was unpinned as often as pinned.

        One place stays free of pins, or no other adapter could ever be used.

        Raises:
            TooManyPinsError: as many are pinned as may be.
        """
        if key not in self._pinned and len(self._pinned) >= self.max_adapters - 1:
            raise TooManyPinsError(
                f"{len(self._pinned)} adapters are pinned; of {self.max_adapters} (serving.max_adapters) at most "
                f"{self.max_adapters - 1} may be: {_LET_ONE_GO}, or raise serving.max_adapters"
            )
        self._pinned[key] += 1

    def unpin(self, key: str) -> None:
        self._pinned[key] -= 1
        self._pinned = +self._pinned

    def pinned(self) -> frozenset[str]:
        """Their keys, resident or not."""
        return frozenset(self._pinned)

    def _touch(self, key: str) -> _Resident[T]:
        resident = self._resident.pop(key)
        self._resident[key] = resident
        return resident

    def _remove(self, key: str) -> None:
        self.size_bytes -= self._resident.pop(key).size_bytes

    def _leaving_for(self, size_bytes: int) -> list[str] | None:
        """Who has to go, the one used longest ago first; None when even all who may go would not be enough."""
        leaving: list[str] = []
        count, total = len(self._resident) + 1, self.size_bytes + size_bytes
        free = self._free()
        while count > self.max_adapters or total > self.max_bytes:
            if (other := next(free, None)) is None:
                return None
            leaving.append(other)
            count, total = count - 1, total - self._resident[other].size_bytes
        return leaving

    def _free(self) -> Iterator[str]:
        return (key for key, one in self._resident.items() if not one.users and key not in self._pinned)

    def _refuse_too_large(self, size_bytes: int) -> None:
        pinned = sum(self._resident[other].size_bytes for other in self._pinned if other in self._resident)
        if size_bytes + pinned > self.max_bytes:
            beside = f" beside {pinned} bytes of pinned adapters" if pinned else ""
            unpin = f", or {_LET_ONE_GO}" if pinned else ""
            raise AdapterTooLargeError(
                f"the adapter takes {size_bytes} bytes{beside}; serving.max_adapter_bytes allows "
                f"{self.max_bytes} for all that are loaded: raise it{unpin}"
            )
