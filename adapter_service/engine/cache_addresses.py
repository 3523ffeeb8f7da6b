"""Where the places of a cache are in memory, for compiled code, which checks nothing itself."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from adapter_service.decoding.tables import Integers
from adapter_service.engine.kv_cache import Buffer, KvCache, Place


class CacheAddresses:
    """Addresses of keys and values; they are looked up anew where a buffer's tensors were made anew."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._known: WeakKeyDictionary[Buffer, _Addresses] = WeakKeyDictionary()

    def of(self, place: Place) -> Integers:
        """(layers, 2), of the keys and the values of a place whose buffer has all its layers."""
        known = self._of_buffer(place)
        return known.first + place.number * known.place_bytes

    def group_bytes(self, place: Place) -> int:
        """From one head of keys and values to the next."""
        return self._of_buffer(place).group_bytes

    def _of_buffer(self, place: Place) -> _Addresses:
        buffer = self._cache.buffer(place.capacity)
        known = self._known.get(buffer)
        if known is None or known.places != buffer.places:
            known = self._known[buffer] = _Addresses(buffer)
        return known


class _Addresses:
    """Of one buffer, none of whose memory it keeps; `first` are those of the place with the number 0."""

    def __init__(self, buffer: Buffer) -> None:
        self.places = buffer.places
        keys = buffer.layers[0][0]
        self.place_bytes, self.group_bytes = (keys.stride(dim) * keys.element_size() for dim in (0, 1))
        self.first = np.array([[keys.data_ptr(), values.data_ptr()] for keys, values in buffer.layers], np.int64)


def checked(place: Place, position: int) -> int:
    """`position`.

    Raises:
        IndexError: the place has no room for it.
    """
    if position >= place.capacity:
        raise IndexError(f"token {position} of a sequence that has room for {place.capacity}")
    return position
