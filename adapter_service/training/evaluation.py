"""Score an adapter, or the base, on held-out samples: completion loss, and answers against references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adapter_service.lora.adapter import Adapter
from adapter_service.lora.layer import using
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.training.batching import pack
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loss import Head, token_losses


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """Summed loss in nats of one sample's completion, and how many tokens that is."""

    loss: float
    tokens: int


@torch.inference_mode()
def score(
    base: BaseModel,
    adapter: Adapter | None,
    samples: Sequence[RenderedSample],
    *,
    budget_tokens: int,
    pause: Callable[[], None],
) -> list[SampleLoss]:
    """The completion loss of each sample, in the samples' order."""
    head = Head.of(base.model)
    losses: dict[int, SampleLoss] = {}
    for group in pack([len(sample.ids) for sample in samples], budget_tokens):
        pause()
        batch = collate([samples[index] for index in group], base.tokenizer.pad_token_id or 0, base.device)
        with using(adapter):
            tokens = token_losses(completion_states(base.model, batch), batch.targets, head)
        counts = [samples[index].completion_tokens for index in group]
        for index, own in zip(group, tokens.split(counts), strict=True):
            losses[index] = SampleLoss(float(own.sum()), len(own))
    return [losses[index] for index in range(len(samples))]
