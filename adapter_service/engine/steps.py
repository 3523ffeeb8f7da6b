"""A token for every row that has joined: through transformers' modules, or compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from adapter_service.base_models.attention import attending
from adapter_service.base_models.threads import threads_for
from adapter_service.engine.cached_attention import StepAttention
from adapter_service.engine.kv_cache import KvCache, Place
from adapter_service.engine.sequence import Sequence
from adapter_service.lora.layer import using
from adapter_service.lora.rows import AdapterRows, Row

if TYPE_CHECKING:
    from adapter_service.decoding.decoder import Decoder
    from adapter_service.decoding.step import Integers
    from adapter_service.model_utils import BaseModel


class Steps(Protocol):
    """The rows that a step goes on with, each with a place in one cache."""

    def join(self, sequence: Sequence, place: Place) -> None: ...

    def leave(self, sequence: Sequence) -> None: ...

    def step(self) -> tuple[list[Sequence], torch.Tensor]:
        """Take everyone's `next_token`; the rows in some order, and logits (rows, vocabulary) of what follows it."""
        ...

    def free_memory(self) -> None:
        """Give up what is only kept for speed."""
        ...


class ModuleSteps:
    """Through transformers' modules, at most `rows` of them in one pass."""

    def __init__(self, base: BaseModel, cache: KvCache, rows: int) -> None:
        self._base = base
        self._cache = cache
        self._adapters = AdapterRows(rows)
        self._joined: dict[Sequence, tuple[Row, Place]] = {}
        self._of_row: dict[Row, Sequence] = {}

    def join(self, sequence: Sequence, place: Place) -> None:
        row = Row(sequence.adapter, sequence.scale)
        self._joined[sequence] = row, place
        self._of_row[row] = sequence
        self._adapters.join(row)

    def leave(self, sequence: Sequence) -> None:
        row, _ = self._joined.pop(sequence)
        del self._of_row[row]
        self._adapters.leave(row)

    def step(self) -> tuple[list[Sequence], torch.Tensor]:
        sequences = [self._of_row[row] for row in self._adapters.order]
        device = self._base.device
        tokens = torch.tensor([[sequence.next_token] for sequence in sequences], device=device)
        positions = torch.tensor([[sequence.seen] for sequence in sequences], device=device)
        places = [self._joined[sequence][1] for sequence in sequences]
        attention = StepAttention(self._cache, places, [sequence.seen for sequence in sequences], device)
        with threads_for(len(sequences)), using(self._adapters), attending(attention):
            output = self._base.model(input_ids=tokens, position_ids=positions, use_cache=False, logits_to_keep=1)
        return sequences, output.logits[:, -1]

    def free_memory(self) -> None:
        self._adapters.free_memory()


class CompiledSteps:
    """By a decoder, which reads each row's adapter and cache where they are: joining copies nothing."""

    def __init__(self, decoder: Decoder, cache: KvCache) -> None:
        self._decoder = decoder
        self._cache = cache
        self._joined: dict[Sequence, Place] = {}
        self._adapters: Integers | None = None
        self._buffers: dict[int, _Addresses] = {}

    def join(self, sequence: Sequence, place: Place) -> None:
        self._joined[sequence] = place
        self._adapters = None

    def leave(self, sequence: Sequence) -> None:
        del self._joined[sequence]
        self._adapters = None

    def step(self) -> tuple[list[Sequence], torch.Tensor]:
        sequences = list(self._joined)
        if self._adapters is None:
            of_rows = (sequence.adapter if sequence.scale else None for sequence in sequences)
            self._adapters = np.stack([self._decoder.adapter_table(adapter) for adapter in of_rows])
        buffers = [self._addresses(place.capacity) for place in self._joined.values()]
        caches = [
            buffer.first + place.number * buffer.place_bytes
            for buffer, place in zip(buffers, self._joined.values(), strict=True)
        ]
        logits = self._decoder.step(
            [sequence.next_token for sequence in sequences],
            [sequence.seen for sequence in sequences],
            np.stack(caches),
            [buffer.group_bytes for buffer in buffers],
            self._adapters,
            [sequence.scale for sequence in sequences],
        )
        return sequences, logits

    def free_memory(self) -> None:
        """All that is kept is a few rows wide."""

    def _addresses(self, capacity: int) -> _Addresses:
        layers = self._cache.buffer(capacity).layers
        known = self._buffers.get(capacity)
        if known is None or known.layers is not layers:  # it was made anew, with more places
            known = self._buffers[capacity] = _Addresses(layers)
        return known


class _Addresses:
    """Where the places of one buffer are."""

    def __init__(self, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.layers = layers
        # (layers, 2), keys and values of the place with the number 0
        self.first = np.array([[keys.data_ptr(), values.data_ptr()] for keys, values in layers], np.int64)
        keys = layers[0][0]
        self.place_bytes, self.group_bytes = (keys.stride(dim) * keys.element_size() for dim in (0, 1))
