"""A tiny base of this test's own, and adapters for it that say something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapter_service.base_models.int8 import Int8Linear
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import LowRankLinear, install
from adapter_service.model_utils import load_base

MakeAdapter = Callable[..., Adapter]


class Doubling(nn.Linear):
    """A kind that nobody knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


KINDS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "int8": lambda i, o: Int8Linear(nn.Linear(i, o)),
    "conv": lambda i, o: Conv1D(o, i),
    "unknown": Doubling,
}


@pytest.fixture
def model(tiny_base_folder: Path) -> Any:
    """Without our layers yet."""
    return load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="float32").model


@pytest.fixture
def layers(model: Any) -> dict[str, LowRankLinear]:
    return install(model, keep=model.get_output_embeddings())


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(2, 258, (3, 11), generator=torch.Generator().manual_seed(4))


@pytest.fixture
def make_adapter(layers: Mapping[str, LowRankLinear]) -> MakeAdapter:
    """An adapter whose B is random, so that it changes the answers."""

    def make(config: LoraConfig | None = None, seed: int = 0) -> Adapter:
        adapter = Adapter.fresh(config or LoraConfig(r=4, alpha=8), layers, seed=seed)
        generator = torch.Generator().manual_seed(seed + 100)
        for pair in adapter.pairs.values():
            pair.b.data.normal_(std=0.2, generator=generator)
        return adapter

    return make


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=tokens).logits
    return found
