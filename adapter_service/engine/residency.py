"""Which adapters stay loaded: the least recently used goes first. Pure: what is kept is anything."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Residency(Generic[T]):
    """At most `capacity` loaded things by key."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._loaded: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str, load: Callable[[], T]) -> T:
        """What `key` names, from memory or from `load`, making room when there is none."""
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        loaded = load()
        while len(self._loaded) >= self.capacity:
            self._loaded.popitem(last=False)
        self._loaded[key] = loaded
        return loaded

    def keys(self) -> list[str]:
        """From the one that goes next to the one used last."""
        return list(self._loaded)
