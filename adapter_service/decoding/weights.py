"""A linear layer's matrix as a step reads it: where it lies, or packed in fewer bits.

    as loaded    the base's own memory: float32, bfloat16, or 8 bits with a scale for each output
    float16      half the bytes of a float32 base, and all but the same answers
    int8         half the bytes of 16 bits again, with a scale for each output; it changes answers, some bases' much

A packed matrix is a copy, beside the one that training and prompts go through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from adapter_service.base_models.int8 import Int8Linear, quantized_rows
from adapter_service.decoding.tiles import BFLOAT16, FLOAT16, FLOAT32, INT8

Packing = Literal["as_loaded", "float16", "int8"]
KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.int8: INT8}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights (outputs, inputs) of a kind that a step can read; scales and bias are float32 (outputs,)."""

    weights: torch.Tensor
    scales: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    is_copy: bool = False

    @property
    def entry(self) -> list[int]:
        """Its line in a table."""
        return [self.weights.data_ptr(), KINDS[self.weights.dtype], _address(self.scales), _address(self.bias)]


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
        packed, scales = quantized_rows(weights)
        return Matrix(packed, scales, wide_bias, is_copy=True)
    if packing == "float16" and weights.dtype is torch.float32:
        return Matrix(weights.to(torch.float16), None, wide_bias, is_copy=True)
    whole = weights.contiguous()
    return Matrix(whole, None, wide_bias, is_copy=whole is not weights)


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
