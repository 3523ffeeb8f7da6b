"""A frozen linear layer and the low-rank product beside it, as one step of a pass that trains.

In one, the low-rank parts are added in place, and layers that are run again for their backward pass give the same bits
as those that are not. The adapter's float32 matrices are cast to the type of `x` for each product, never `x` to theirs:
a float32 copy of every layer's input is most of what PEFT's training memory is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from adapter_service.base_models.pauses import pause_here
from adapter_service.lora.adapter import LowRankPair
from adapter_service.lora.frozen import input_gradient
from adapter_service.lora.kept_outputs import KeptOutputs


def trained_product(x: torch.Tensor, linear: nn.Module, pair: LowRankPair, outputs: KeptOutputs | None) -> torch.Tensor:
    """`linear(x)` and the pair's product, (..., in) to (..., out), made now or as `outputs` has it.

    Inputs are dropped from the pair's product alone.
    """
    rows = x.reshape(-1, x.shape[-1])
    kept, by = pair.draw_kept(rows), 1 / (1 - pair.dropout)
    y: torch.Tensor = _Product.apply(rows, pair.a, pair.b, pair.scale, kept, by, linear, outputs)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], pair.b.shape[0])


class _Product(torch.autograd.Function):
    """linear(x) + (x′ (scale A)ᵀ) Bᵀ of rows x, where x′ is x, or x × kept × by where some numbers are dropped.

    Its backward pass needs x′ and r numbers of each row, and not the output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        kept: torch.Tensor | None,
        by: float,
        linear: nn.Module,
        outputs: KeptOutputs | None,
    ) -> torch.Tensor:
        down, up = (a * scale).to(rows.dtype), b.to(rows.dtype)  # (r, in), (out, r)
        seen = rows if kept is None else (rows * kept).mul_(by)
        inner = seen @ down.T  # (rows, r)
        ctx.save_for_backward(seen, inner, down, up, kept)
        ctx.scale, ctx.by, ctx.linear = scale, by, linear

        def make() -> torch.Tensor:
            y: torch.Tensor = linear(rows)
            return y.addmm_(inner.to(y.dtype), up.T.to(y.dtype))

        return make() if outputs is None else outputs.taken_or_made(make)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pause_here()
        seen, inner, down, up, kept = ctx.saved_tensors
        gradient = grads[0].to(seen.dtype)  # (rows, out)
        of_inner = gradient @ up  # (rows, r)
        of_a = (of_inner.T @ seen).float().mul_(ctx.scale)
        # Not gradient.T @ inner: the wide factor is better read as it lies (a fifth of the product's time).
        of_b = (inner.T @ gradient).T.float()
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = input_gradient(ctx.linear, gradient)
            if kept is None:
                of_x.addmm_(of_inner, down)
            else:
                of_x.addcmul_(of_inner @ down, kept, value=ctx.by)
        return of_x, of_a, of_b, None, None, None, None, None
