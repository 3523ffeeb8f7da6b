"""Clients that went away while their requests waited: they keep nobody out of the line, and are counted as aborted."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from adapter_service.engine.generations import Generation, never_begun
from adapter_service.engine.measures import Measures
from adapter_service.engine.waiting import WaitingLine


def drop_cancelled(line: WaitingLine[Generation], lock: AbstractContextManager[Any], measures: Measures) -> None:
    """Take them out of `line`, around which `lock` is held; from any thread."""
    with lock:
        left = line.remove(lambda generation: generation.cancelled)
    for generation in left:
        result = never_begun(generation)
        measures.finished(result)
        generation.publish(result)
