"""A token for every row that has joined: through transformers' modules, or compiled."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from adapter_service.base_models.pauses import pause_in_use
from adapter_service.base_models.threads import threads_for
from adapter_service.decoding.tables import Integers, Rows
from adapter_service.engine.cache_addresses import CacheAddresses, checked
from adapter_service.engine.cached_attention import StepAttention
from adapter_service.engine.kv_cache import KvCache, Place
from adapter_service.engine.module_pass import module_logits
from adapter_service.engine.recording import RecordedSteps, Recordings, StepInputs
from adapter_service.engine.sequence import Sequence
from adapter_service.lora.rows import AdapterRows, Row

if TYPE_CHECKING:
    from adapter_service.decoding.decoder import Decoder
    from adapter_service.model_utils import BaseModel


class Steps(Protocol):
    """The rows that a step goes on with, each with a place in one cache."""

    @property
    def joined(self) -> Collection[Sequence]: ...

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

    def __init__(self, base: BaseModel, cache: KvCache, rows: int, recordings: Recordings | None = None) -> None:
        """With `recordings`, steps of a shape that comes again are recorded, and replayed from then on."""
        self._base = base
        self._cache = cache
        self._adapters = AdapterRows(rows)
        self._joined: dict[Sequence, tuple[Row, Place]] = {}
        self._of_row: dict[Row, Sequence] = {}
        self._recorded = None if recordings is None else RecordedSteps(recordings)

    @property
    def joined(self) -> Collection[Sequence]:
        return self._joined

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
        inputs = self._inputs(sequences)
        with threads_for(len(sequences)):
            logits = self._logits(inputs) if self._recorded is None else self._recorded.logits(inputs, self._logits)
        return sequences, logits

    def free_memory(self) -> None:
        self._adapters.free_memory()
        if self._recorded is not None:
            self._recorded.free_memory()

    def _inputs(self, sequences: list[Sequence]) -> StepInputs:
        places = [self._joined[sequence][1] for sequence in sequences]
        seen, device = [sequence.seen for sequence in sequences], self._base.device
        numbers = torch.tensor([[sequence.next_token for sequence in sequences], seen], device=device)
        few_shapes = self._recorded is not None
        attention = StepAttention(self._cache, places, seen, device, few_shapes=few_shapes)
        return StepInputs(numbers, attention, self._adapters)

    def _logits(self, inputs: StepInputs) -> torch.Tensor:
        tokens, positions = inputs.numbers[:, :, None]
        logits = module_logits(self._base.model, tokens, positions, inputs.adapters, inputs.attention)
        assert logits is not None  # noqa: S101 - they were wanted
        return logits[:, -1]


class CompiledSteps:
    """By a decoder, which reads each row's adapter and cache where they are: joining copies nothing."""

    def __init__(self, decoder: Decoder, cache: KvCache) -> None:
        from adapter_service.decoding.decoder import Workspace

        self._decoder = decoder
        self._workspace = Workspace()
        self._joined: dict[Sequence, Place] = {}
        self._tables: dict[Sequence, Integers] = {}
        self._adapters: Integers | None = None
        self._addresses = CacheAddresses(cache)

    @property
    def joined(self) -> Collection[Sequence]:
        return self._joined

    def join(self, sequence: Sequence, place: Place) -> None:
        self._tables[sequence] = self._decoder.adapter_table(sequence.added)
        self._joined[sequence] = place
        self._adapters = None

    def leave(self, sequence: Sequence) -> None:
        del self._joined[sequence], self._tables[sequence]
        self._adapters = None

    def step(self) -> tuple[list[Sequence], torch.Tensor]:
        sequences, places = list(self._joined), list(self._joined.values())
        if self._adapters is None:
            self._adapters = np.stack([self._tables[sequence] for sequence in sequences])
        rows = Rows(
            tokens=np.array([sequence.next_token for sequence in sequences], np.int64),
            positions=np.array([checked(place, s.seen) for s, place in zip(sequences, places, strict=True)], np.int64),
            caches=np.stack([self._addresses.of(place) for place in places]),
            strides=np.array([self._addresses.group_bytes(place) for place in places], np.int64),
            adapters=self._adapters,
            strengths=np.array([sequence.scale for sequence in sequences], np.float32),
            wanted=len(sequences),
        )
        return sequences, self._decoder.step(rows, self._workspace, pause_in_use())

    def free_memory(self) -> None:
        """All that is kept is a few rows wide."""
