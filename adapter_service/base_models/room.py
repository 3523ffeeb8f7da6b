"""Room that each thread keeps for what is thrown away after each use, on a CPU."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch


class _Room(threading.local):
    """As large as the largest use of it has been, for each purpose and type.

    New memory for each product is new pages from the system for each: 30 ms for a layer of 2560 by 10240
    whose widening takes 4, and a quarter of the time of a backward product of 128 rows.
    """

    def __init__(self) -> None:
        self._room: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def of(self, purpose: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Uninitialized, and the caller's until the next call for the same purpose."""
        size = math.prod(shape)
        room = self._room.get((purpose, dtype))
        if room is None or room.numel() < size:
            with torch.inference_mode(mode=False):  # what is made while answering could not be written to in training
                room = self._room[purpose, dtype] = torch.empty(size, dtype=dtype)
        return room[:size].view(shape)


room = _Room()
