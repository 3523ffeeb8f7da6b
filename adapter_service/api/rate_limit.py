"""How many requests one caller may make within a minute.

Not with the package `limits`: its store in memory keeps every name for ever and looks at all of them, in a
thread that it starts, at nearly every request (measured with 10,000 addresses: 4.3 ms each).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from adapter_service.errors import RateLimitedError

WINDOW_SECONDS = 60.0
# Of those that come from more addresses than this, the ones not heard of for longest are forgotten.
MOST_NAMES = 2000


class MovingWindow:
    """At most `limit` hits of one name within any minute. For one thread, the event loop's."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()

    def hit(self, name: str, what: str) -> None:
        """Count one of `what`; those that are refused are not counted.

        Raises:
            RateLimitedError: there were `limit` within the last minute.
        """
        now = self._clock()
        hits = self._hits.setdefault(name, deque())
        self._hits.move_to_end(name)
        while hits and hits[0] <= now - WINDOW_SECONDS:
            hits.popleft()
        if len(hits) >= self._limit:
            wait = max(1, math.ceil(hits[0] + WINDOW_SECONDS - now))
            raise RateLimitedError(
                f"there were {self._limit} {what} within a minute; try again in {wait} s", retry_after_seconds=wait
            )
        hits.append(now)
        if len(self._hits) > MOST_NAMES:
            self._hits.popitem(last=False)


def network_of(address: str) -> str:
    """By what a peer is counted: its address, or of IPv6 the /64, all of which one subscriber has."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed if parsed.version == 4 else ip_network((parsed, 64), strict=False))
