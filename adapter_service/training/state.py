"""What a training run has in its hands from step to step, and what a checkpoint keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from adapter_service.lora.adapter import Adapter
from adapter_service.settings import TrainingSettings


@dataclass(slots=True)
class Totals:
    """Of a run from its first step, resumed or not; a sample counts once in every epoch."""

    samples: int = 0
    tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class TrainingState:
    """What a run needs to go on: weights, optimizer, how many steps are done, and what they took.

    The rest (which samples make which step, the rate, dropout's numbers) follows from the step and
    the seed. `token_budget` is the settings', or less since memory was short.
    """

    adapter: Adapter
    optimizer: torch.optim.AdamW
    token_budget: int
    step: int = 0
    losses: list[float] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)


def begin(adapter: Adapter, settings: TrainingSettings) -> TrainingState:
    """The state before the first step; the optimizer has matrices A and B apart, which may differ in their rates."""
    pairs = adapter.pairs.values()
    optimizer = torch.optim.AdamW(
        [{"params": [pair.a for pair in pairs]}, {"params": [pair.b for pair in pairs]}],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        fused=True,  # a quarter of the time that torch takes otherwise, on a CPU
    )
    return TrainingState(adapter, optimizer, settings.token_budget)
