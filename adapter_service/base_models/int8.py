"""Eight-bit linear layers: weights held as int8 with one scale per output row.

The weights are the only copy, and half the memory of 16-bit ones. They are multiplied in three ways:

    forward, many rows    widened for each product into room that the thread keeps
    forward, few rows     by a kernel that widens them in registers: decoding in bfloat16
    backward              with the gradient rounded to int8, where int8 products are the fast ones

So the forward pass is that of the weights as they are held, in training as in serving. One layer of 2048 by
640 on one thread of an EPYC with AVX512_BF16 and AVX512_VNNI, in ms; bfloat16 is a layer of 16-bit weights:

    rows                       512              128                1
                     8 bits  bf16     8 bits  bf16      8 bits  bf16
    forward             7.1   6.7        1.9   1.8        0.14  0.35
    backward            4.8   6.7        1.0   1.3

On CUDA bitsandbytes quantizes each weight while it is loaded, so that the wide ones are never there together,
and products are made here in the first way. Its own product (LLM.int8) casts to float16, warns of it each time,
waits for the device to find outliers, and rounds activations. Embeddings and the output head stay as they are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx

from adapter_service.base_models.room import room

_LARGEST = 127.0
# bfloat16 rounds 127 times its factor up to 127.5, and that is 128, which int8 has not.
_LARGEST_OF_GRADIENT = 126.0
# With more rows the kernel for few of them takes longer than widening does.
_FEW_ROWS = 8
# That kernel reads beyond the end of rows whose length is no multiple of its step (16 with AVX512).
_FEW_ROWS_STEP = 64
_ROWS_TOGETHER = 4096
_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class _FrozenProduct(torch.autograd.Function):
    """`x @ (q * scale).T` that saves neither `x` nor the wide weights: the weights are frozen."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.q, ctx.scale = q, scale  # type: ignore[attr-defined]
        inner, scale = x.shape[-1], scale.to(x.dtype)
        few = x.device.type == "cpu" and x.numel() <= _FEW_ROWS * inner
        # The kernel is made for bfloat16; in float32 it takes four times as long as widening.
        if few and x.dtype is torch.bfloat16 and inner % _FEW_ROWS_STEP == 0:
            rows = x.reshape(-1, inner).contiguous()  # of a slice it is a view
            product = torch._weight_int8pack_mm(rows, q, scale)  # what is added in place may not be a view of it
            return product if x.dim() == 2 else product.view(*x.shape[:-1], q.shape[0])
        return nn.functional.linear(x, _widened(q, x.dtype)).mul_(scale)  # (..., out)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads  # (..., out)
        of_x = gradient_of_input(grad.reshape(-1, ctx.q.shape[0]), ctx.q, ctx.scale)
        return of_x.view(*grad.shape[:-1], ctx.q.shape[1]), None, None


def gradient_of_input(grad: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`(grad * scale) @ q`, (rows, out) to (rows, in)."""
    scale = scale.to(grad.dtype)
    if grad.device.type != "cpu" or not int8_products_are_fast():
        return (grad * scale) @ _widened(q, grad.dtype)
    return rounded_product(grad, q, scale)


def rounded_product(grad: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`(grad * scale) @ q`, with each row of the first factor rounded to int8 by a number of its own.

    This changes the adapter's gradient by 5.5 % of its norm (SmolLM2-135M and Gemma 3 270M alike, rank 16,
    all layers). Computing in bfloat16 changes it by 6 to 7 %, holding the weights in 8 bits by more than
    either. Activations do not bear it: rounded so, they change the gradient by 33 to 38 %, as single
    channels are far larger than the rest of their row.
    """
    scaled = torch.mul(grad, scale, out=room.of("scaled", grad.shape, grad.dtype))
    size = torch.abs(scaled, out=room.of("size", grad.shape, grad.dtype))
    # Numbers without a sign are ordered as their bits are; of these the largest is found in a fifth of the time.
    largest = size.view(_BITS[grad.dtype]).amax(dim=-1, keepdim=True).view(grad.dtype)  # (rows, 1)
    factor = _LARGEST_OF_GRADIENT / largest.clamp_min(1e-30)
    rounded = room.of("rounded", grad.shape, torch.int8).copy_(scaled.mul_(factor).round_())
    product = torch._int_mm(rounded, q, out=room.of("product", (len(grad), q.shape[1]), torch.int32))
    # Rows with a number that is not finite stay so: their factor is 0 or not a number.
    return product.to(grad.dtype).mul_(1 / factor)


def _widened(q: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`q` in `dtype`, until the next call. CUDA's allocator keeps its own room."""
    return room.of("wide", q.shape, dtype).copy_(q) if q.device.type == "cpu" else q.to(dtype)


@cache
def int8_products_are_fast() -> bool:
    """Whether this processor multiplies int8 at twice the speed of bfloat16, and enough to pay for the rounding.

    By what it can do and not by measuring, so that a run that is resumed computes as it did before. Without
    VNNI int8 sums saturate; with AMX the products take less time than the rounding.
    """
    able = torch.cpu.get_capabilities()
    vnni = able.get("avx512_vnni") or able.get("avx_vnni")
    return bool(vnni and not able.get("amx_int8"))


class Int8Linear(nn.Module):
    """A frozen linear layer of `in_features` by `out_features` with int8 weights (out, in)."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Module) -> None:
        """`linear` is an `nn.Linear`, GPT-2's `Conv1D`, or bitsandbytes' layer of 8 bits."""
        super().__init__()
        weight, scale = _quantized(linear)
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        bias: torch.Tensor | None = linear.bias  # type: ignore[assignment]
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _FrozenProduct.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def input_gradient(self, grad: torch.Tensor) -> torch.Tensor:
        """(rows, in), where `grad` (rows, out) is that of the output."""
        return gradient_of_input(grad, self.weight, self.scale)


def _quantized(linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 weights (out, in), and the scale of each row."""
    if linear.weight.dtype is torch.int8:  # bitsandbytes' have been quantized while they were loaded
        return linear.weight.data, linear.weight.SCB / _LARGEST  # type: ignore[attr-defined]
    weight: torch.Tensor = linear.weight.detach().float()  # type: ignore[operator]
    if not isinstance(linear, nn.Linear):  # Conv1D's lie (in, out)
        weight = weight.T.contiguous()
    return quantized_rows(weight)


def quantized_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) as int8, and the scale of each row, float32."""
    quantized = torch.empty_like(weight, dtype=torch.int8)
    scales = weight.new_empty(len(weight), dtype=torch.float32)
    # A head has a gigabyte in float32: never all of it at once.
    for start in range(0, len(weight), _ROWS_TOGETHER):
        part = weight[start : start + _ROWS_TOGETHER].float()
        # Scales that bfloat16 holds as they are: products in it apply them without rounding.
        scale = (part.abs().amax(dim=1).clamp_min(1e-8) / _LARGEST).bfloat16().float()  # (rows,)
        scales[start : start + _ROWS_TOGETHER] = scale
        quantized[start : start + _ROWS_TOGETHER] = (part / scale[:, None]).round()
    return quantized, scales


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
