"""Random small bases of every family that steps compute, and what steps of them are given."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import transformers

from adapter_service.decoding.decoder import Decoder, Workspace
from adapter_service.decoding.tables import Integers, Rows
from adapter_service.decoding.weights import Packing
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import LowRankLinear
from adapter_service.lora.resident import ResidentAdapter

VOCABULARY = 90
CAPACITY = 256
# No size is a whole number of vectors.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 42,
    "intermediate_size": 70,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
KINDS_OF_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SIZES),
    "llama-biases": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-tied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-3.1": transformers.LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    ),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=24),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=24, layer_types=KINDS_OF_LAYERS),
    "gemma": transformers.GemmaConfig(**SIZES),
    "gemma3": transformers.Gemma3TextConfig(
        **SIZES, sliding_window=24, layer_types=KINDS_OF_LAYERS, query_pre_attn_scalar=30
    ),
}  # fmt: skip

PACKINGS: list[tuple[Packing, torch.dtype]] = [
    ("as_loaded", torch.float32),
    ("as_loaded", torch.bfloat16),
    ("float16", torch.float32),
    ("int8", torch.float32),
]
# Whole numbers of groups that have a scale each.
SIZES_OF_GROUPS = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}


def random_model(name: str, dtype: torch.dtype = torch.float32, **sizes: int) -> Any:
    """Of a family, with other sizes where they are given."""
    torch.manual_seed(1)
    config = copy.deepcopy(FAMILIES[name])
    config.update(sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for parameter in model.parameters():  # norms and biases are ones and zeros at first
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn(parameter.shape), alpha=0.2)
    return model


class Caches:
    """Keys and values of some rows, each with a capacity of its own; nobody looks at what was not put there."""

    def __init__(self, model: Any, capacities: list[int]) -> None:
        config = model.config
        self.tensors = [
            torch.full(
                (config.num_hidden_layers, 2, config.num_key_value_heads, capacity, config.head_dim),
                float("nan"),
                dtype=model.dtype,
            )
            for capacity in capacities
        ]

    @property
    def addresses(self) -> Integers:
        return np.array([[[part.data_ptr() for part in layer] for layer in cache] for cache in self.tensors], np.int64)

    @property
    def strides(self) -> Integers:
        return np.array([cache.stride(2) * cache.element_size() for cache in self.tensors], np.int64)


def one_step(
    decoder: Decoder,
    caches: Caches,
    tokens: list[int],
    positions: list[int],
    adapters: list[ResidentAdapter | None] | None = None,
    scales: list[float] | None = None,
) -> torch.Tensor:
    """Logits (rows, vocabulary); each row in a cache of its own."""
    rows = Rows(
        tokens=np.array(tokens, np.int64),
        positions=np.array(positions, np.int64),
        caches=caches.addresses,
        strides=caches.strides,
        adapters=np.stack([decoder.adapter_table(adapter) for adapter in adapters or [None] * len(tokens)]),
        strengths=np.array(scales or [1.0] * len(tokens), np.float32),
        wanted=len(tokens),
    )
    return decoder.step(rows, Workspace())


def some_tokens(count: int) -> list[int]:
    return [(7 + 31 * place + place // 5) % VOCABULARY for place in range(count)]


@torch.no_grad()
def logits_of(model: Any, tokens: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()
    return logits


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest, of any token, relative to its logits."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def made_adapter(layers: dict[str, LowRankLinear], seed: int) -> Adapter:
    adapter = Adapter.fresh(LoraConfig(r=3 + 2 * seed, alpha=8), layers, seed=seed)
    for pair in adapter.pairs.values():
        pair.b.data.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return adapter
