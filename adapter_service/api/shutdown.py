"""Says at once that the process was asked to end, and lets no client hold that up.

uvicorn ends the lifespan after the last connection. A stream that follows a job has no end of its own, so it is
told; a client that sends half a body, or reads no more of its answer, is waited for during the grace alone.
Answers under way may end within `drain_seconds`, or in less where whoever launched the service gave it less: uvicorn
cuts what is left then, and a stream would lack its last event.
"""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

# For what is left of connections when the last answer has ended.
GRACE_SECONDS = 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def told_of_the_end(listener: Callable[[float], None], *, drain_seconds: float) -> Iterator[None]:
    """Within it `listener` runs on this event loop when SIGTERM or SIGINT comes; who handled them before still does.

    It is told how many seconds answers under way may take.

    Only the main thread may listen to signals. Elsewhere (in a test's client) nobody sends any.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}
    for handler in earlier.values():
        drain_seconds = _within_the_grace(handler, drain_seconds)

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(listener, drain_seconds)
        handler = earlier[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _within_the_grace(handler: Any, drain_seconds: float) -> float:
    """What of `drain_seconds` the grace of uvicorn leaves, of whose server `handler` is a method.

    Started without --timeout-graceful-shutdown it would wait for ever, and gets one that leaves all of them.
    """
    server = getattr(handler, "__self__", None)
    if not isinstance(server, uvicorn.Server):
        return drain_seconds
    if (grace := server.config.timeout_graceful_shutdown) is None:
        server.config.timeout_graceful_shutdown = math.ceil(drain_seconds) + GRACE_SECONDS
        return drain_seconds
    return min(drain_seconds, max(grace - GRACE_SECONDS, grace / 2))
