"""One adapter's weights: a pair of low-rank matrices for each linear layer that it changes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch
from torch import nn

from adapter_service.errors import AdapterFormatError, InvalidParameterError
from adapter_service.lora.depth import upper_half

ALL_LINEAR = "all-linear"
_IN_UPPER_HALF = "in the upper half of the base (lora.layers is 'top-half')"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Shape of an adapter, in PEFT's words but for `layers`, which says where in the decoder it has weights.

    `target_modules` is "all-linear" or names, each a whole path or the end of one at a dot.
    `rank_pattern` and `alpha_pattern` map such names, or regular expressions, to other values.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    layers: Literal["all", "top-half"] = "all"
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def targets(self, path: str) -> bool:
        if isinstance(self.target_modules, str):
            return self.target_modules == ALL_LINEAR or bool(re.fullmatch(self.target_modules, path))
        return any(path == name or path.endswith(f".{name}") for name in self.target_modules)

    def rank(self, path: str) -> int:
        return _by_pattern(self.rank_pattern, path, self.r)

    def scale(self, path: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
        alpha, rank = _by_pattern(self.alpha_pattern, path, self.alpha), self.rank(path)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _by_pattern(pattern: Mapping[str, T], path: str, default: T) -> T:
    """The value of the first key that ends `path` at a dot, as PEFT's `get_pattern_key`."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", path)), default)


class LinearLayer(Protocol):
    in_features: int
    out_features: int


L = TypeVar("L", bound=LinearLayer)


class Weights(Protocol):
    """A (r, in) and B (out, r) of one layer, and what their product is times."""

    @property
    def a(self) -> torch.Tensor: ...
    @property
    def b(self) -> torch.Tensor: ...
    @property
    def scale(self) -> float: ...


class LowRankPair(nn.Module):
    """`(x @ A.T) @ B.T * scale` with A (r, in) and B (out, r); in training see `lora/product.py`."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.scale = scale
        self.dropout = dropout
        self.dropout_generator: torch.Generator | None = None

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), in the matrices' type, for a pass without a gradient; nothing is dropped."""
        inner = nn.functional.linear(x.to(self.a.dtype), self.a) * self.scale  # (..., r)
        return nn.functional.linear(inner, self.b)

    def draw_kept(self, x: torch.Tensor) -> torch.Tensor | None:
        """Which of the inputs `x` are not dropped, as bools; None where all are kept.

        Those stand for the dropped ones too, at 1 / (1 - dropout) times their size. Inputs are dropped only where
        `dropout_generator` is set, that is, in training.
        """
        if not self.dropout or self.dropout_generator is None:
            return None
        return torch.rand(x.shape, generator=self.dropout_generator, device=x.device) >= self.dropout


class Adapter(nn.Module):
    """Low-rank pairs by layer path, for one base.

    Made for training (float32, B zero, so that it starts as the base) or for serving (a frozen
    copy in the base's type).
    """

    def __init__(self, config: LoraConfig, pairs: Mapping[str, LowRankPair]) -> None:
        super().__init__()
        self.config = config
        self.pairs: dict[str, LowRankPair] = dict(pairs)
        # Parameter names may hold no dots; the paths are kept in `pairs`.
        self._registered = nn.ModuleList(self.pairs.values())
        self.dropout_generator: torch.Generator | None = None

    @classmethod
    def fresh(
        cls,
        config: LoraConfig,
        layers: Mapping[str, LinearLayer],
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> Adapter:
        """A, uniform as PEFT's default (Kaiming with a = sqrt(5)); B, zero.

        Raises:
            InvalidParameterError: `target_modules` names no layer, or one that is not there.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = select_layers(config, layers)
        pairs = {}
        for path, layer in chosen.items():
            rank, bound = config.rank(path), 1 / math.sqrt(layer.in_features)
            a = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound
            b = torch.zeros(layer.out_features, rank)
            pairs[path] = LowRankPair(a.to(device), b.to(device), config.scale(path), config.dropout)
        return cls(config, pairs)

    def frozen_copy(self, dtype: torch.dtype) -> Adapter:
        """For serving: other memory, no gradients, no dropout."""
        copy = self._copy(dtype, dropout=0.0)
        copy.requires_grad_(requires_grad=False)
        return copy

    def trainable_copy(self, dropout: float = 0.0) -> Adapter:
        """For training further: float32, other memory, so that the one being served stays as it is."""
        return self._copy(torch.float32, dropout)

    def _copy(self, dtype: torch.dtype, dropout: float) -> Adapter:
        pairs = {}
        for path, pair in self.pairs.items():
            a, b = (matrix.detach().to(dtype, copy=True) for matrix in (pair.a, pair.b))
            pairs[path] = LowRankPair(a, b, pair.scale, dropout)
        return Adapter(self.config, pairs)

    @property
    def drops(self) -> bool:
        """Whether inputs are dropped in training; equal rows then differ."""
        return any(pair.dropout for pair in self.pairs.values())

    def set_dropout(self, generator: torch.Generator | None) -> None:
        """Drop inputs by its numbers, in training; None drops nothing."""
        self.dropout_generator = generator
        for pair in self.pairs.values():
            pair.dropout_generator = generator

    def is_finite(self) -> bool:
        """Also when served: see `are_finite`."""
        return are_finite(self.pairs.values())

    @property
    def size_bytes(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())


def select_layers(config: LoraConfig, layers: Mapping[str, L]) -> dict[str, L]:
    """The layers that `config` changes, in the model's order.

    Raises:
        InvalidParameterError: a target matches nothing, where PEFT would leave it out in silence; or the
            base has no upper half.
    """
    within, where = (layers, "of the base") if config.layers == "all" else (upper_half(layers), _IN_UPPER_HALF)
    if isinstance(config.target_modules, tuple):
        unmatched = [name for name in config.target_modules if not _any_ends_with(name, within)]
        if unmatched:
            raise InvalidParameterError(
                f"target_modules {unmatched} match no linear layer {where}; "
                f"it has {sorted({path.rpartition('.')[2] for path in within})}, or use {ALL_LINEAR!r}",
                parameter="target_modules",
            )
    chosen = {path: layer for path, layer in within.items() if config.targets(path)}
    if not chosen:
        raise InvalidParameterError(
            f"target_modules {config.target_modules!r} match no linear layer {where}",
            parameter="target_modules",
        )
    return chosen


def _any_ends_with(name: str, paths: Iterable[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for path in paths)


def are_finite(pairs: Iterable[Weights]) -> bool:
    """Whether all weights are numbers, in the types of bases too: what float64 has room for is infinite there."""
    # The ends of a matrix are finite where all of it is, and one pass finds them: 2 ms for 20 MB, where asking
    # every number takes 17.
    ends = [end.float() for pair in pairs for matrix in (pair.a, pair.b) for end in matrix.detach().aminmax()]
    return bool(torch.isfinite(torch.stack(ends).to(torch.bfloat16)).all())


def check_fits(pairs: Mapping[str, Weights], layers: Mapping[str, LinearLayer]) -> None:
    """Refuse weights that do not fit the base.

    Raises:
        AdapterFormatError: a path that the base has not, or a shape that differs.
    """
    for path, pair in pairs.items():
        if path not in layers:
            raise AdapterFormatError(f"the adapter changes {path!r}, which this base does not have")
        wanted = (layers[path].in_features, layers[path].out_features)
        rank = pair.a.shape[0]
        if (tuple(pair.a.shape), tuple(pair.b.shape)) != ((rank, wanted[0]), (wanted[1], rank)):
            raise AdapterFormatError(
                f"the adapter's weights for {path!r} are A {tuple(pair.a.shape)}, B {tuple(pair.b.shape)}; "
                f"this base wants A (r, {wanted[0]}), B ({wanted[1]}, r)"
            )
