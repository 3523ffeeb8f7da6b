"""Which bases a step of our own can compute, and what they are made of.

A family is named by transformers' `model_type`; what its members do in ways of their own (norms, activations, rotary
tables) is asked of their modules and not assumed. Whether some tokens come to the same is then tried: see
`engine/probe.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from adapter_service.base_models.norms import Norm, measured
from adapter_service.decoding.layers import GELU_TANH, SILU
from adapter_service.decoding.tables import (
    AFTER_ATTENTION,
    AFTER_MLP,
    BEFORE_ATTENTION,
    BEFORE_MLP,
    OF_KEY,
    OF_QUERY,
)

_LLAMA_LIKE = {BEFORE_ATTENTION: "input_layernorm", BEFORE_MLP: "post_attention_layernorm"}
_BETWEEN_TWO = {
    BEFORE_ATTENTION: "input_layernorm",
    AFTER_ATTENTION: "post_attention_layernorm",
    BEFORE_MLP: "pre_feedforward_layernorm",
    AFTER_MLP: "post_feedforward_layernorm",
}
_NORMS_OF = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma3_text": _BETWEEN_TWO,
}
# Of heads, in whatever family has them.
_NORMS_OF_HEADS = {OF_QUERY: "q_norm", OF_KEY: "k_norm"}
# In the order of `tables.QUERY` to `tables.DOWN`.
_LINEARS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
_ACTIVATIONS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    SILU: nn.functional.silu,
    GELU_TANH: partial(nn.functional.gelu, approximate="tanh"),
}
# Settings of which any but "no" changes what is computed.
_NOT_COMPUTED = ("use_bidirectional_attention", "attn_logit_softcapping", "final_logit_softcapping")
# Rotary tables that are what they are whatever the length of the text.
_STEADY_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn", "proportional"})


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """`linears` in a step's order, with the paths that adapters know them by; `norms` by place; `window` 0 is none."""

    paths: tuple[str, ...]
    linears: tuple[nn.Module, ...]
    norms: dict[int, Norm]
    window: int
    rotation: str | None
    """Which of the base's rotary tables it turns by, where there are several."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """All that a step needs to know of a base."""

    layers: Sequence[DecoderLayer]
    embedding: torch.Tensor
    embedding_factor: float
    final_norm: Norm
    head: nn.Module
    heads: int
    groups: int
    head_size: int
    activation: int
    score_scale: float
    rotary: nn.Module

    def rotation(self, kind: str | None, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (positions, half a head), float32, rounded as the base rounds them."""
        states = self.embedding.new_zeros(1, 1, 1)
        more = () if kind is None else (kind,)
        cosines, sines = self.rotary(states, torch.arange(positions)[None], *more)
        half = cosines.shape[-1] // 2
        return cosines[0, :, :half].float().contiguous(), sines[0, :, :half].float().contiguous()


class NotComputedError(ValueError):
    """A base does something that a step does not."""


def architecture_of(model: Any) -> Architecture:
    """What a step computes of a transformers model, whose linear layers may be wrapped for adapters.

    Raises:
        NotComputedError: it is of another family, or does something that the family's members do not.
    """
    config = model.config.get_text_config()
    if (names := _NORMS_OF.get(config.model_type)) is None:
        raise NotComputedError(f"{config.model_type!r} is none of the families {', '.join(_NORMS_OF)}")
    if model.device.type != "cpu":
        raise NotComputedError(f"the base is on {model.device.type}")
    if changed := [key for key in _NOT_COMPUTED if getattr(config, key, None)]:
        raise NotComputedError(f"the base's config has {changed[0]}")
    try:
        return _read(model, config, names)
    except AttributeError as error:  # a module of another kind stands where its family has one
        raise NotComputedError(f"the base is not made as its family is: {error}") from error


@torch.no_grad()
def _read(model: Any, config: Any, names: dict[int, str]) -> Architecture:
    decoder = model.get_decoder()
    paths = {module: path for path, module in model.named_modules()}
    attention, embedding, rotary = decoder.layers[0].self_attn, decoder.embed_tokens, decoder.rotary_emb
    has_kinds = "layer_type" in inspect.signature(type(rotary).forward).parameters
    modules = decoder.layers[: config.num_hidden_layers]
    layers = [_layer(layer, config, names, paths, has_kinds=has_kinds) for layer in modules]
    final_norm = _norm(decoder.norm)
    epsilons = {norm.epsilon for layer in layers for norm in layer.norms.values()} | {final_norm.epsilon}
    scales = {layer.self_attn.scaling for layer in modules}
    activations = {_activation(layer.mlp.act_fn) for layer in modules}
    if max(map(len, (epsilons, scales, activations))) > 1:
        raise NotComputedError("its layers differ in their norms' epsilon, their scores' scale or their activation")
    if not _is_steady(rotary):
        raise NotComputedError("its rotary tables change with the length of the text")
    factor = getattr(embedding, "embed_scale", None)
    architecture = Architecture(
        layers=layers,
        embedding=embedding.weight.detach(),
        embedding_factor=1.0 if factor is None else float(factor.to(embedding.weight.dtype)),
        final_norm=final_norm,
        head=model.get_output_embeddings(),
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        head_size=attention.head_dim,
        activation=activations.pop(),
        score_scale=float(attention.scaling),
        rotary=rotary,
    )
    if architecture.rotation(layers[0].rotation, 1)[0].shape[1] != attention.head_dim // 2:
        raise NotComputedError("its heads are turned in part")
    return architecture


def _layer(layer: Any, config: Any, names: dict[int, str], paths: dict[Any, str], *, has_kinds: bool) -> DecoderLayer:
    attention = layer.self_attn
    modules = [layer.get_submodule(name) for name in _LINEARS]
    norms = {place: _norm(getattr(layer, name)) for place, name in names.items()}
    of_heads = {place: getattr(attention, name, None) for place, name in _NORMS_OF_HEADS.items()}
    norms |= {place: _norm(norm) for place, norm in of_heads.items() if norm is not None}
    of_all = config.sliding_window if config.model_type == "mistral" else None
    return DecoderLayer(
        paths=tuple(paths[module] for module in modules),
        linears=tuple(getattr(module, "linear", module) for module in modules),
        norms=norms,
        window=getattr(attention, "sliding_window", of_all) or 0,
        rotation=attention.layer_type if has_kinds else None,
    )


def _norm(module: nn.Module) -> Norm:
    if (norm := measured(module)) is None:
        raise NotComputedError(f"{type(module).__name__} is no norm that a step computes")
    return norm


def _is_steady(rotary: Any) -> bool:
    kinds = rotary.rope_type
    return set(kinds.values() if isinstance(kinds, dict) else {kinds}) <= _STEADY_ROTATIONS


def _activation(function: Any) -> int:
    x = torch.linspace(-6, 6, 101)
    for kind, computed in _ACTIVATIONS.items():
        if torch.allclose(function(x), computed(x), atol=1e-5):
            return kind
    raise NotComputedError(f"its activation, {function}, is none that a step computes")
