"""Noise on what the base reads while it trains, so that few samples are not learned by heart.

From NEFTune (Jain et al. 2023, arXiv:2310.05914). There its size is in absolute numbers, of which bases with larger
embeddings would notice nothing: here it is in standard deviations of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class EmbeddingNoise:
    """Of `size` standard deviations of the embeddings, uniform; none at 0. It is drawn from `generator`."""

    def __init__(self, model: Any, size: float) -> None:
        self._embedding = model.get_input_embeddings()
        self._size = size
        self.generator: torch.Generator | None = None

    @contextmanager
    def added(self) -> Iterator[None]:
        """To the embeddings of the pass inside; what is answered in a pause of it has none."""
        if not self._size:
            yield
            return

        def add(_module: Any, _ids: Any, embeddings: torch.Tensor) -> torch.Tensor:
            hook.remove()  # a pass reads its embeddings before anything else
            noise = torch.rand(embeddings.shape, generator=self.generator, device=embeddings.device)
            # The standard deviation of what is uniform from -1 to 1 is the root of 1 / 3.
            largest = math.sqrt(3) * self._size * embeddings.detach().float().std()
            return embeddings + ((2 * noise - 1) * largest).to(embeddings.dtype)

        hook = self._embedding.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()
