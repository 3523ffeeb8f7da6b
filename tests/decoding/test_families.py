"""Whole steps of random bases of every family against transformers, and bases that are none of them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from adapter_service.base_models.int8 import quantize_linears
from adapter_service.decoding.decoder import Decoder
from adapter_service.decoding.families import NotComputedError, architecture_of
from adapter_service.lora.layer import install

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


def random_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[name]), dtype=dtype).eval()
    for parameter in model.parameters():  # norms and biases are ones and zeros at first
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn(parameter.shape), alpha=0.2)
    return model


def stepped(decoder: Decoder, model: Any, tokens: list[int]) -> torch.Tensor:
    """Logits (tokens, vocabulary), token after token."""
    config = model.config
    shape = (config.num_hidden_layers, 2, config.num_key_value_heads, CAPACITY, config.head_dim)
    cache = torch.full(shape, float("nan"), dtype=model.dtype)  # nobody looks at what was not put there
    caches = np.array([[part.data_ptr() for part in layer] for layer in cache], np.int64)[None]
    stride, none = CAPACITY * config.head_dim * cache.element_size(), decoder.adapter_table(None)[None]
    return torch.cat(
        [decoder.step([token], [place], caches, [stride], none, [1.0]) for place, token in enumerate(tokens)]
    )


def some_tokens(count: int) -> list[int]:
    return [(7 + 31 * place + place // 5) % VOCABULARY for place in range(count)]


@torch.no_grad()
def logits_of(model: Any, tokens: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()
    return logits


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest, of any token, relative to its logits."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_of_every_family_come_to_transformers_logits(name: str) -> None:
    """Also beyond the windows that it looks through."""
    model, tokens = random_model(name), some_tokens(120)
    decoder = Decoder(architecture_of(model), "as_loaded")
    assert distance(stepped(decoder, model, tokens), logits_of(model, tokens)) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_in_bfloat16_they_are_nearer_to_what_the_weights_come_to_than_transformers(name: str) -> None:
    model, tokens = random_model(name, torch.bfloat16), some_tokens(60)
    exact = logits_of(copy.deepcopy(model).float(), tokens)
    found = stepped(Decoder(architecture_of(model), "as_loaded"), model, tokens)
    assert distance(found, exact) <= 1.2 * distance(logits_of(model, tokens), exact)


@pytest.mark.parametrize(("packing", "bound"), [("float16", 0.005), ("int8", 0.2)])
def test_packed_weights_come_near(packing: Any, bound: float) -> None:
    model, tokens = random_model("llama"), some_tokens(40)
    found = distance(stepped(Decoder(architecture_of(model), packing), model, tokens), logits_of(model, tokens))
    assert 1e-6 < found < bound


def test_eight_bit_layers_are_read_as_they_are() -> None:
    model, tokens = random_model("gemma3", torch.bfloat16), some_tokens(40)
    quantize_linears(model, keep=model.get_output_embeddings())
    decoder = Decoder(architecture_of(model), "as_loaded")
    assert decoder.weight_kinds == ["int8", "bfloat16"]
    assert distance(stepped(decoder, model, tokens), logits_of(model, tokens)) < 0.05


def test_layers_that_are_wrapped_for_adapters_are_found() -> None:
    model, tokens = random_model("llama"), some_tokens(10)
    wanted = logits_of(model, tokens)
    install(model, keep=model.get_output_embeddings())
    assert distance(stepped(Decoder(architecture_of(model), "as_loaded"), model, tokens), wanted) < 1e-4


def test_a_text_longer_than_the_first_rotary_tables() -> None:
    model = random_model("llama")
    decoder = Decoder(architecture_of(model), "as_loaded")
    model.config.max_position_embeddings = 4096
    shape = (3, 2, 2, 2048, 20)
    cache = torch.randn(shape)
    caches = np.array([[part.data_ptr() for part in layer] for layer in cache], np.int64)[None]
    found = decoder.step([5], [1500], caches, [2048 * 20 * 4], decoder.adapter_table(None)[None], [1.0])
    past = transformers.DynamicCache()
    for number, (keys, values) in enumerate(cache):
        past.update(keys[None, :, :1500].clone(), values[None, :, :1500].clone(), number)
    with torch.no_grad():
        ids, positions = torch.tensor([[5]]), torch.tensor([[1500]])
        wanted = model(input_ids=ids, position_ids=positions, past_key_values=past).logits[0, -1:]
    assert distance(found, wanted) < 1e-4


REFUSED: dict[str, tuple[Any, str]] = {
    "another family": (
        transformers.PhiConfig(
            vocab_size=90, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        ),
        "'phi' is none of the families",
    ),
    "softcap": (
        transformers.Gemma3TextConfig(**SIZES, final_logit_softcapping=30.0),
        "config has final_logit_softcapping",
    ),
    "bidirectional": (
        transformers.Gemma3TextConfig(**SIZES, use_bidirectional_attention=True),
        "config has use_bidirectional_attention",
    ),
    "tables that change": (
        transformers.LlamaConfig(
            **SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
        ),
        "rotary tables change with the length",
    ),
    "activation": (transformers.LlamaConfig(**SIZES, hidden_act="relu"), "its activation"),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_step_does_not_compute_is_refused_with_the_reason(config: Any, reason: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(NotComputedError, match=reason):
        architecture_of(model)


def test_a_norm_of_another_kind_is_refused() -> None:
    model = random_model("llama")
    model.model.layers[1].input_layernorm = torch.nn.LayerNorm(42)
    with pytest.raises(NotComputedError, match="LayerNorm is no norm that a step computes"):
        architecture_of(model)
