"""Frozen linear layers of every kind that bases have: how wide they are, and how a gradient goes back through them.

`nn.Linear` and GPT-2's `Conv1D`, our int8 layer, bitsandbytes' of 4 bits, and whatever else is an `nn.Linear`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from adapter_service.base_models.int8 import Int8Linear


def is_linear(module: nn.Module) -> bool:
    """`nn.Linear` and its kin: bitsandbytes' are subclasses, our int8 and GPT-2's Conv1D look alike."""
    return isinstance(module, nn.Linear | Int8Linear) or _is_conv1d(module)


def widths(linear: nn.Module) -> tuple[int, int]:
    """Numbers that go in, and that come out."""
    layer: Any = linear
    return (layer.nx, layer.nf) if _is_conv1d(linear) else (layer.in_features, layer.out_features)


def input_gradient(linear: nn.Module, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of the input (rows, in), in memory of its own, from `gradient`, the output's (rows, out)."""
    layer: Any = linear
    of_x: torch.Tensor
    if isinstance(layer, Int8Linear):
        of_x = layer.input_gradient(gradient)
    elif type(layer) is nn.Linear:
        of_x = gradient @ layer.weight
    elif _is_conv1d(layer):  # its weights lie (in, out)
        of_x = gradient @ layer.weight.T
    elif _is_4bit(layer):
        of_x = gradient @ _dequantized(layer).to(gradient.dtype)
    else:
        of_x = _by_autograd(layer, gradient)
    return of_x


def _by_autograd(layer: Any, gradient: torch.Tensor) -> torch.Tensor:
    """A linear layer's derivative is the same everywhere, so zeros do for the input."""
    with torch.enable_grad():
        x = gradient.new_zeros(len(gradient), layer.in_features, requires_grad=True)
        (of_x,) = torch.autograd.grad(layer(x), x, gradient)
    return of_x


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_4bit(module: nn.Module) -> bool:
    bitsandbytes = sys.modules.get("bitsandbytes")  # whoever has such a layer has loaded it
    return bitsandbytes is not None and isinstance(module, bitsandbytes.nn.Linear4bit)


def _dequantized(layer: Any) -> torch.Tensor:
    """Weights (out, in), as bitsandbytes' own backward pass makes them."""
    from bitsandbytes.functional import dequantize_4bit

    wide: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return wide
