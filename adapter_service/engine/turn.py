"""What long work gets from the engine while the base is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_service.engine.requests import AdapterFiles

if TYPE_CHECKING:
    from adapter_service.engine.batch import Batch
    from adapter_service.lora.adapter import Adapter
    from adapter_service.lora.layer import LowRankLinear
    from adapter_service.model_utils import BaseModel
    from adapter_service.rendering import Renderer


@dataclass(frozen=True, slots=True)
class Turn:
    """The base, the means to render and to read adapters, and the pause.

    `new_batch` makes one of so many rows, for the work alone; where its steps round weights that the modules do not,
    `rounds_weights` is true. `pause` returns when the work may go on, and
    raises when the engine stops; it may be called in the middle of a pass.
    """

    base: BaseModel
    renderer: Renderer
    layers: Mapping[str, LowRankLinear]
    read_adapter: Callable[[AdapterFiles], Adapter]
    new_batch: Callable[[int], Batch]
    rounds_weights: bool
    pause: Callable[[], None]
