"""Adapters in memory, with random weights that change what a base says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import install
from adapter_service.lora.resident import ResidentAdapter

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

# One of every kind that shares a batch with others: rank classes 8, 8, 32, and parts of the layers.
KINDS = (
    LoraConfig(r=3, alpha=6),
    LoraConfig(r=8, alpha=8, target_modules=("q_proj", "0.mlp.down_proj")),
    LoraConfig(r=20, alpha=10, use_rslora=True, rank_pattern={"v_proj": 5}, alpha_pattern={"o_proj": 3.0}),
)


def random_adapter(base: BaseModel, config: LoraConfig, seed: int, std: float = 0.2) -> Adapter:
    layers = install(base.model, keep=base.model.get_output_embeddings())
    adapter = Adapter.fresh(config, layers, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for pair in adapter.pairs.values():
        pair.b.data.normal_(std=std, generator=generator)
    return adapter


def resident(base: BaseModel, config: LoraConfig, seed: int, std: float = 0.2) -> ResidentAdapter:
    return ResidentAdapter.of(
        f"version-{seed}", random_adapter(base, config, seed, std), base.adapter_dtype, base.device
    )


def every_kind(base: BaseModel) -> list[ResidentAdapter]:
    return [resident(base, config, seed) for seed, config in enumerate(KINDS)]
