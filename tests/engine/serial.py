"""Sequences of a batch, one by itself: what every batch must come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapter_service.engine.batch import Batch, MixedBatch
from adapter_service.engine.kernels import Kernel, make_kernel
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.sequence import Sequence
from adapter_service.settings import KernelName
from tests.near_ties import Serial

if TYPE_CHECKING:
    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.model_utils import BaseModel


def mixed(
    base: BaseModel,
    rows: int = 8,
    prefix_bytes: int = 0,
    kernel: KernelName = "as_loaded",
    *,
    reads_prompts: bool = False,
) -> MixedBatch:
    prefixes, made = PrefixCache(CHUNK_TOKENS, prefix_bytes), make_kernel(base, kernel)
    assert isinstance(made, Kernel), made.reason
    return MixedBatch(
        base,
        rows=rows,
        template_id="plain",
        prefixes=prefixes,
        decoder=made.decoder,
        prompts_by=made.decoder if reads_prompts else None,
        recordings=made.recordings,
    )


def read(batch: Batch, sequence: Sequence) -> torch.Tensor:
    """Logits (vocabulary,) of what follows its prompt."""
    logits = None
    while logits is None:
        logits = batch.read(sequence)
    return logits


def greedy(
    batch: Batch, prompt: list[int], tokens: int, adapter: ResidentAdapter | None = None, scale: float = 1.0
) -> torch.Tensor:
    """Logits (tokens, vocabulary) of the greedy answer, of a sequence that comes and goes."""
    sequence = Sequence(prompt, len(prompt) + tokens, adapter, scale)
    with torch.inference_mode():
        batch.add(sequence)
        logits = [read(batch, sequence)]
        batch.join(sequence)
        while len(logits) < tokens:
            sequence.next_token = int(logits[-1].argmax())
            logits += [row for other, row in batch.step() if other is sequence]
        batch.remove(sequence)
        return torch.stack(logits)


def serial_of(logits: torch.Tensor) -> Serial:
    """From logits (tokens, vocabulary)."""
    best = logits.float().topk(2).values
    return Serial(logits.argmax(-1).tolist(), (best[:, 0] - best[:, 1]).tolist())
