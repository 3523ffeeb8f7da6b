"""A linear layer's matrix as a step reads it: where it lies, or packed in fewer bits.

    as loaded    the base's own memory: float32, bfloat16, or 8 bits with a scale for each output
    float16      half the bytes of a float32 base, and all but the same answers
    int8         half the bytes of 16 bits again, with a scale for every 64 weights; it changes answers a little

A packed matrix is a copy, beside the one that training goes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from adapter_service.base_models.int8 import Int8Linear, quantized_rows
from adapter_service.decoding.pairs import BLOCK
from adapter_service.decoding.vectors import BFLOAT16, BFLOAT16_PAIRS, FLOAT16, FLOAT32, GROUP, INT8, INT8_GROUPS

Packing = Literal["as_loaded", "float16", "int8"]
_ROWS_TOGETHER = 4096
KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.int8: INT8}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights (outputs, inputs) of a kind that a step can read.

    Scales are float32, (outputs,) or, one for every GROUP of inputs, (outputs, groups); a bias is float32 (outputs,).
    """

    weights: torch.Tensor
    scales: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    is_copy: bool = False

    @property
    def entry(self) -> list[int]:
        """Its line in a table."""
        is_grouped = self.scales is not None and self.scales.dim() == 2
        kind = INT8_GROUPS if is_grouped else KINDS[self.weights.dtype]
        return [self.weights.data_ptr(), kind, _address(self.scales), _address(self.bias)]

    @property
    def is_of_pairs(self) -> bool:
        """Whether products of pairs can read it."""
        return self.weights.dtype is torch.bfloat16 and self.weights.shape[1] % BLOCK == 0

    @property
    def entry_of_pairs(self) -> list[int]:
        """Its line in a table for products of pairs."""
        return [self.weights.data_ptr(), BFLOAT16_PAIRS, 0, _address(self.bias)]

    @property
    def bytes(self) -> int:
        """What a step reads of it."""
        return self.weights.nbytes + (0 if self.scales is None else self.scales.nbytes)


def matrix_of(linear: nn.Module, packing: Packing) -> Matrix | None:
    """That of a linear layer; None of a kind that a step cannot read."""
    bias = getattr(linear, "bias", None)
    wide_bias = None if bias is None else bias.detach().float().contiguous()
    if isinstance(linear, Int8Linear):
        return Matrix(linear.weight, linear.scale, wide_bias)
    if type(linear) is not nn.Linear or linear.weight.dtype not in {torch.float32, torch.bfloat16}:
        return None
    weights = linear.weight.detach()
    if packing == "int8":
        packed, scales = quantized_groups(weights) if weights.shape[1] % GROUP == 0 else quantized_rows(weights)
        return Matrix(packed, scales, wide_bias, is_copy=True)
    if packing == "float16" and weights.dtype is torch.float32:
        return Matrix(weights.to(torch.float16), None, wide_bias, is_copy=True)
    whole = weights.contiguous()
    return Matrix(whole, None, wide_bias, is_copy=whole is not weights)


def quantized_groups(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (outputs, inputs) and float32 scales (outputs, inputs / GROUP), whose product is nearest to the weights."""
    outputs, inputs = weights.shape
    packed = torch.empty(outputs, inputs, dtype=torch.int8)
    scales = torch.empty(outputs, inputs // GROUP)
    for first in range(0, outputs, _ROWS_TOGETHER):  # widened, a large head would take as much again
        part = slice(first, first + _ROWS_TOGETHER)
        groups = weights[part].float().view(-1, inputs // GROUP, GROUP)
        largest = groups.abs().amax(-1)
        scales[part] = largest / 127.0
        rounded = (groups * (127.0 / largest.clamp_min(1e-30))[..., None]).round_()
        packed[part] = rounded.view(-1, inputs).to(torch.int8)
    return packed, scales


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
