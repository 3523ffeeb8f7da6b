"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# The first engine of a run compiles its steps: half a minute, and more where other work goes on.
READY_SECONDS = 240.0


def eventually(ask: Callable[[], T], what: str, *, seconds: float = 120.0) -> T:
    """The first true answer of `ask`; `what` is said where there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.01)
    raise AssertionError(f"not after {seconds} s: {what}")
