"""How pieces of prompts go through the base: by transformers' modules, or compiled where that is faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from adapter_service.base_models.pauses import pause_in_use
from adapter_service.decoding.tables import Rows
from adapter_service.engine.cache_addresses import CacheAddresses, checked
from adapter_service.engine.cached_attention import PromptAttention
from adapter_service.engine.kv_cache import KvCache, Place
from adapter_service.engine.module_pass import added_by, module_logits
from adapter_service.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapter_service.decoding.decoder import Decoder
    from adapter_service.model_utils import BaseModel


class Prompts(Protocol):
    """What reads prompts into the places of one cache."""

    def read(self, sequence: Sequence, place: Place, start: int, end: int, *, keep: int) -> torch.Tensor | None:
        """Take the tokens `start` to before `end`; logits (keep, vocabulary) of what follows the last ones, if any."""
        ...

    def free_memory(self) -> None:
        """Give up what is only kept for speed; not while `read` is under way."""
        ...


class ModulePrompts:
    """Through transformers' modules."""

    def __init__(self, base: BaseModel, cache: KvCache) -> None:
        self._base = base
        self._cache = cache

    def read(self, sequence: Sequence, place: Place, start: int, end: int, *, keep: int) -> torch.Tensor | None:
        device = self._base.device
        tokens = torch.tensor([sequence.prompt[start:end]], device=device)
        positions = torch.arange(start, end, device=device)[None]
        attention = PromptAttention(self._cache, place, start, end - start)
        logits = module_logits(self._base.model, tokens, positions, added_by(sequence), attention, keep=keep)
        return None if logits is None else logits[0]

    def free_memory(self) -> None:
        """There is none."""


class CompiledPrompts:
    """Compiled, by a decoder."""

    def __init__(self, decoder: Decoder, cache: KvCache) -> None:
        self._decoder = decoder
        self._cache = cache
        self._addresses = CacheAddresses(cache)
        self.free_memory()

    def read(self, sequence: Sequence, place: Place, start: int, end: int, *, keep: int) -> torch.Tensor | None:
        count = checked(place, end - 1) + 1 - start
        self._cache.buffer(place.capacity).make_layers(self._decoder.layers, self._decoder.no_keys)
        adapter = self._decoder.adapter_table(sequence.added)
        rows = Rows(
            tokens=np.array(sequence.prompt[start:end], np.int64),
            positions=np.arange(start, end, dtype=np.int64),
            caches=np.repeat(self._addresses.of(place)[None], count, axis=0),
            strides=np.full(count, self._addresses.group_bytes(place), np.int64),
            adapters=np.repeat(adapter[None], count, axis=0),
            strengths=np.full(count, sequence.scale, np.float32),
            wanted=keep,
        )
        logits = self._decoder.read(rows, self._workspace, pause_in_use())
        return logits if keep else None

    def free_memory(self) -> None:
        from adapter_service.decoding.decoder import Workspace

        self._workspace = Workspace()
