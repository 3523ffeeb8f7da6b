"""The sparing norms against the models' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from adapter_service.base_models import norms

SIZE = 48


def with_weights(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.weight.normal_(0.5, 0.3, generator=torch.Generator().manual_seed(0))  # type: ignore[operator]
    return norm.requires_grad_(requires_grad=False)


def normed_and_gradient(norm: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * torch.linspace(-1, 1, SIZE)).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def inputs(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 5, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_values_and_gradients_are_those_of_the_models_norm(kind: Any) -> None:
    norm = with_weights(kind(SIZE))
    theirs = normed_and_gradient(norm, inputs())
    assert norms.install(nn.Sequential(norm)) == 1
    torch.testing.assert_close(normed_and_gradient(norm, inputs()), theirs, rtol=1e-5, atol=1e-5)


def test_nothing_is_kept_for_the_backward_pass_but_the_input_and_a_number_a_row() -> None:
    norm = with_weights(LlamaRMSNorm(SIZE)).to(torch.bfloat16)
    norms.install(nn.Sequential(norm))
    kept: list[torch.Tensor] = []
    x = inputs(torch.bfloat16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        norm(x)
    large = [t for t in kept if t.numel() == x.numel()]
    assert len(large) == 1
    assert large[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_without_a_gradient_it_is_the_models_own_bit_for_bit(kind: Any) -> None:
    norm = with_weights(kind(SIZE)).to(torch.bfloat16)
    before = norm(inputs(torch.bfloat16))
    norms.install(nn.Sequential(norm))
    assert torch.equal(norm(inputs(torch.bfloat16)), before)


class OtherRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    """Of a kind that is not known: its square root is left out."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = hidden_states.square().mean(-1, keepdim=True) + self.variance_epsilon
        return torch.mul(self.weight, hidden_states / mean)


class GatedRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    """One that wants a gate beside its input."""

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return torch.mul(super().forward(hidden_states), gate)


@pytest.mark.parametrize("kind", [OtherRMSNorm, GatedRMSNorm, nn.LayerNorm])
def test_a_norm_of_another_kind_stays_as_it_is(kind: Any) -> None:
    norm = with_weights(kind(SIZE))
    assert norms.install(nn.Sequential(norm)) == 0


def test_on_another_device_nothing_is_written_into_the_input() -> None:
    x = torch.zeros(2, 4, device="meta")  # float32, of which a conversion makes no copy
    assert norms._room_for("products", x) is not x
    assert norms._widened("input", x) is not x
