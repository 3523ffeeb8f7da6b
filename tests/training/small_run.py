"""Training runs that end in a moment: random tokens, the tiny base, and what can be seen of a run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import install
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.settings import TrainingSettings
from adapter_service.training.loop import Hooks, train
from adapter_service.training.progress import TrainingResult
from adapter_service.training.state import TrainingState, begin

END = 1  # of the tiny base's tokenizer, where it is the padding too
NO_CLIPPING = 1e6


def some_samples(count: int, *, seed: int = 0, longest: int = 24) -> list[RenderedSample]:
    """Random letters, ended as the renderer ends them; the completion is the second half."""
    chooser = random.Random(seed)
    lengths = [chooser.randint(6, longest) for _ in range(count)]
    return [
        RenderedSample((*(chooser.randrange(2, 250) for _ in range(length - 1)), END), length // 2)
        for length in lengths
    ]


def small_settings(**changes: Any) -> TrainingSettings:
    values = {
        "num_epochs": 1,
        "per_device_train_batch_size": 4,
        "warmup_steps": 2,
        "max_seq_length": 32,
        "token_budget": 64,
    }
    return TrainingSettings(**{**values, **changes})


def fresh_adapter(base: BaseModel, *, b: float = 0.0, **lora: Any) -> Adapter:
    """Rank 4 everywhere; with `b` its second matrices are random too, so that the first have a gradient."""
    config = LoraConfig(**{"r": 4, "alpha": 8, **lora})
    adapter = Adapter.fresh(config, install(base.model, keep=base.model.get_output_embeddings()), seed=7)
    generator = torch.Generator().manual_seed(8)
    for pair in adapter.pairs.values():
        pair.b.data.normal_(0.0, b, generator=generator) if b else None
    return adapter


@dataclass(frozen=True)
class Ran:
    state: TrainingState
    result: TrainingResult

    @property
    def weights(self) -> list[bytes]:
        """Every bit of the adapter."""
        return weights_of(self.state.adapter)

    @property
    def gradients(self) -> list[torch.Tensor]:
        """Of the first step, clipped: Adam's first moment is `1 - beta1` of it."""
        optimizer, beta = self.state.optimizer, self.state.optimizer.param_groups[0]["betas"][0]
        return [optimizer.state[p]["exp_avg"] / (1 - beta) for p in self.state.adapter.parameters()]


def weights_of(adapter: Adapter) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in adapter.parameters()]


def run(
    base: BaseModel,
    samples: Sequence[RenderedSample],
    settings: TrainingSettings | None = None,
    *,
    adapter: Adapter | None = None,
    hooks: Hooks | None = None,
) -> Ran:
    settings = settings or small_settings()
    state = begin(adapter or fresh_adapter(base), settings)
    return Ran(state, train(base, samples, state, settings, hooks or Hooks()))
