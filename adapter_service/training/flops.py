"""How many floating-point operations training needs: what the model asks for, not what was spent on it.

Counted are matrix products, an addition and a multiplication as two operations: of the frozen linear layers
forward and back to their inputs, of the adapter, of attention between a token and each that it looks at, and of the
output head for completion tokens. Not counted are padding, what is computed a second time, and in the backward pass
what lies below the first layer that trains. Over the machine's speed at products alone this is the share of its peak
that is reached; as Chowdhery et al. 2022 (arXiv:2204.02311, B), but for attention to later tokens, which is masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from adapter_service.lora.adapter import LinearLayer
from adapter_service.lora.depth import depths
from adapter_service.rendering import RenderedSample

# Linear layers of a decoder layer that read the same; one that is not here reads something of its own.
_READ_TOGETHER = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})
_MULTIPLY_ADD = 2


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one forward and backward pass with an adapter.

    `attention` is of one token and one that it looks at, by how many tokens the layers look back over
    (None: all of them).
    """

    per_token: int
    per_completion_token: int
    attention: Mapping[int | None, int]

    @classmethod
    def of(cls, model: Any, layers: Mapping[str, LinearLayer], ranks: Mapping[str, int]) -> Work:
        """Of a transformers model with these linear layers, in its order, of which those of `ranks` train."""
        backward = _with_input_gradient(list(layers), ranks)
        per_token = 0
        for path, layer in layers.items():
            back = path in backward
            rank = ranks.get(path, 0)
            per_token += (1 + back) * layer.in_features * layer.out_features
            # Forward, the gradients of both matrices, that of what lies between them, and that of the input.
            per_token += rank * ((2 + back) * layer.in_features + 3 * layer.out_features)
        vocabulary, hidden = model.get_output_embeddings().weight.shape
        return cls(
            per_token=_MULTIPLY_ADD * per_token,
            # The head is frozen: a product forward, one back to the hidden states.
            per_completion_token=_MULTIPLY_ADD * 2 * vocabulary * hidden,
            attention=_attention(model.config.get_text_config(), list(layers), backward),
        )

    def flops(self, samples: Iterable[RenderedSample]) -> int:
        """Of a pass over each of `samples` once."""
        total = 0
        for sample in samples:
            tokens = len(sample.ids)
            total += tokens * self.per_token + sample.completion_tokens * self.per_completion_token
            total += sum(flops * looks(tokens, span) for span, flops in self.attention.items())
        return total


def looks(tokens: int, span: int | None) -> int:
    """How often a token of a sequence looks at one, itself among them, `span` tokens back at most."""
    near = tokens if span is None else min(span, tokens)
    return near * (near + 1) // 2 + (tokens - near) * near


def _with_input_gradient(paths: list[str], trained: Iterable[str]) -> frozenset[str]:
    """The layers whose input has something that trains below it, in a model that runs in this order."""
    wanted = frozenset(trained)
    first = next(path for path in paths if path in wanted)
    above = paths[paths.index(first) + 1 :]
    return frozenset(path for path in above if _input(path) != _input(first))


def _input(path: str) -> str:
    """A name for what the layer reads."""
    block, _, name = path.rpartition(".")
    together = next((min(names) for names in _READ_TOGETHER if name in names), name)
    return f"{block}.{together}"


def _attention(config: Any, paths: list[str], backward: frozenset[str]) -> dict[int | None, int]:
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    kinds: Any = getattr(config, "layer_types", None)
    found: dict[int | None, int] = {}
    for number, own in _by_decoder_layer(paths).items():
        span = config.sliding_window if kinds and kinds[number] == "sliding_attention" else None
        # What attention makes is read by the first layer that does not read what the first of all does.
        reader = next(path for path in own if _input(path) != _input(own[0]))
        # Forward by keys and by values; backward to both factors of each, also where not all of them train.
        products = 2 + 4 * (reader in backward)
        found[span] = found.get(span, 0) + _MULTIPLY_ADD * products * width
    return found


def _by_decoder_layer(paths: list[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path, number in depths(paths).items():
        found.setdefault(number, []).append(path)
    return found
