"""Score an adapter, or the base, on held-out samples: the loss of their completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adapter_service.base_models.pauses import pausing
from adapter_service.lora.adapter import Adapter
from adapter_service.lora.layer import using
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loss import Head, token_losses
from adapter_service.training.packing import lay_out


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
    """The completion loss of each sample, in the samples' order.

    `pause` is called at every layer and between the blocks of the loss; what it raises ends the scoring.
    """
    head = Head.of(base.model)
    sums: dict[int, float] = {}
    for plan in lay_out(samples, budget_tokens, packs=base.packs_rows, shares=True):
        batch = collate(base, samples, plan)
        with using(adapter), pausing(pause):
            losses = token_losses(completion_states(base.model, batch), batch.targets, head)
        counts = [samples[index].completion_tokens for index in plan.places]
        for index, own in zip(plan.places, torch.split(losses, counts), strict=True):
            sums[index] = float(own.double().sum())
    order = range(len(samples))
    return Losses([sums[index] for index in order], [samples[index].completion_tokens for index in order])
