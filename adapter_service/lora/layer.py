"""A frozen linear layer with room for a low-rank product beside it.

Which adapter is added is a matter of the call, not of the model:

    install(model)
    with using(adapter):
        model(...)        # every layer that `adapter` has weights for adds its product
    model(...)            # the base, bit for bit

The context is a `ContextVar`: another thread, or a call nested in this one, has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import nn

from adapter_service.base_models.pauses import pause_here, pausing_at_gradient
from adapter_service.lora.adapter import Adapter, LowRankPair
from adapter_service.lora.frozen import is_linear, widths
from adapter_service.lora.kept_outputs import kept_outputs_in_use
from adapter_service.lora.product import trained_product


class Served(Protocol):
    """What a pass that serves adds to each layer: one adapter's product, or every row's own."""

    def add(self, path: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor: ...


_in_use: ContextVar[Adapter | Served | None] = ContextVar("adapter_in_use", default=None)


@contextmanager
def using(adapter: Adapter | Served | None) -> Iterator[None]:
    """Run the calls inside with `adapter`; None is the base alone."""
    token = _in_use.set(adapter)
    try:
        yield
    finally:
        _in_use.reset(token)


class LowRankLinear(nn.Module):
    """`linear(x)`, plus what the adapter in use has for the layer called `path`."""

    def __init__(self, linear: nn.Module, path: str) -> None:
        super().__init__()
        self.linear = linear
        self.path = path
        self.in_features, self.out_features = widths(linear)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weights; some models look at their dtype."""
        return self.linear.weight  # type: ignore[return-value]

    @property
    def keeps_output(self) -> bool:
        """Whether its output is kept where outputs are."""
        return self.out_features <= self.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pause_here()
        adapter = _in_use.get()
        pair = adapter.pairs.get(self.path) if isinstance(adapter, Adapter) else None
        if pair is not None:
            return self._with_product(x, pair)
        y: torch.Tensor = self.linear(x)
        if adapter is None or isinstance(adapter, Adapter):
            return pausing_at_gradient(y)
        return adapter.add(self.path, x, y)

    def _with_product(self, x: torch.Tensor, pair: LowRankPair) -> torch.Tensor:
        if pair.a.requires_grad and torch.is_grad_enabled():  # its backward pass pauses by itself
            return trained_product(x, self.linear, pair, kept_outputs_in_use() if self.keeps_output else None)
        y: torch.Tensor = self.linear(x)
        return y + pair.product(x).to(y.dtype)


def install(model: nn.Module, keep: nn.Module | None = None) -> dict[str, LowRankLinear]:
    """Put a `LowRankLinear` around every linear layer of `model` but `keep` (the output head).

    Returns:
        The layers by path, in the model's order. Calling it again finds the ones that are there.
    """
    layers: dict[str, LowRankLinear] = {}
    for path, module in list(model.named_modules()):
        parent_path, _, name = path.rpartition(".")
        parent = model.get_submodule(parent_path)
        if isinstance(module, LowRankLinear):
            layers[path] = module
        elif module is not keep and is_linear(module) and not isinstance(parent, LowRankLinear):
            layers[path] = LowRankLinear(module, path)
            setattr(parent, name, layers[path])
    return layers
