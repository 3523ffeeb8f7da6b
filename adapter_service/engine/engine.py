"""The thread that owns the base: requests first, long work in between.

Nothing else touches the model, so there are no locks around it. Long work (a training loop, an
evaluation) is a function that the thread runs; it calls `Turn.pause` wherever it can be
interrupted, down to every layer of a pass, and the scheduler has its turns there. Heavy packages are
imported on the thread, so that making an engine costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import Context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from adapter_service.adapters.artifact import verify_folder
from adapter_service.engine.generations import Generation
from adapter_service.engine.measures import Measures
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.residency import Residency
from adapter_service.engine.resident_adapters import ResidentAdapters
from adapter_service.engine.scheduler import Scheduler
from adapter_service.engine.share import TrainingShare
from adapter_service.engine.waiting import WaitingLine
from adapter_service.errors import (
    AdapterServiceError,
    BusyError,
    InvalidParameterError,
    NotReadyError,
    PromptTooLongError,
)
from adapter_service.samples import Message
from adapter_service.settings import ServingSettings

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter
    from adapter_service.lora.layer import LowRankLinear
    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.model_utils import BaseModel
    from adapter_service.rendering import Renderer

log = logging.getLogger(__name__)
T = TypeVar("T")
EngineState = Literal["loading", "ready", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What long work gets: the base, the means to render and to read adapters, and the pause.

    `pause` returns when the work may go on, and raises when the engine stops.
    """

    base: BaseModel
    renderer: Renderer
    layers: Mapping[str, LowRankLinear]
    read_adapter: Callable[[AdapterFiles], Adapter]
    pause: Callable[[], None]


class Engine:
    """Loads the base with `load_base` on a thread of its own and answers until `stop`."""

    def __init__(
        self, load_base: Callable[[Callable[[str], None]], BaseModel], settings: ServingSettings | None = None
    ) -> None:
        self._load_base = load_base
        self._settings = settings or ServingSettings()
        self._condition = threading.Condition()
        self._arrived: deque[Callable[[], None]] = deque()
        self._line: WaitingLine[Generation] = WaitingLine(self._settings.queue_size)
        self._work: deque[tuple[Callable[[Turn], Any], Future[Any]]] = deque()
        self._residency: Residency[ResidentAdapter] = Residency(
            self._settings.max_adapters, self._settings.max_adapter_bytes
        )
        self._share = TrainingShare(self._settings.train_share)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._turn: Turn | None = None
        self._serving: _Serving | None = None
        self._error: AdapterServiceError | None = None
        self._ends_at: float | None = None
        self._resumed_at = 0.0
        self._settled: Callable[[], None] = lambda: None
        self.measures = Measures()
        self.note = "waiting to be started"
        self.working = False
