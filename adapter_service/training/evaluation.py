"""Score an adapter, or the base, on held-out samples: completion loss, and answers beside references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adapter_service.lora.adapter import Adapter
from adapter_service.lora.layer import using
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.training.batching import split
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loss import Head, token_losses


@dataclass(frozen=True, slots=True)
class Losses:
    """Summed loss in nats of each sample's completion, and how many tokens that is."""

    sums: list[float]
    tokens: list[int]

    @property
    def per_token(self) -> float:
        return sum(self.sums) / max(1, sum(self.tokens))


@torch.inference_mode()
def score(
    base: BaseModel,
    adapter: Adapter | None,
    samples: Sequence[RenderedSample],
    *,
    budget_tokens: int,
    pause: Callable[[], None],
) -> Losses:
    """The completion loss of each sample, in the samples' order. `pause` is called between batches."""
    head = Head.of(base.model)
    sums: dict[int, float] = {}
    for group in split([len(sample.ids) for sample in samples], budget_tokens):
        pause()
        batch = collate([samples[index] for index in group], base.tokenizer.pad_token_id or 0, base.device)
        with using(adapter):
            losses = token_losses(completion_states(base.model, batch), batch.targets, head)
        counts = [samples[index].completion_tokens for index in group]
        for index, own in zip(group, torch.split(losses, counts), strict=True):
            sums[index] = float(own.double().sum())
    order = range(len(samples))
    return Losses([sums[index] for index in order], [samples[index].completion_tokens for index in order])
