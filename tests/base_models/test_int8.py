"""Eight-bit layers: small in memory, close in value, exact in their gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapter_service.base_models.int8 import Int8Linear, quantize_linears


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(96, 40)


def dequantized(layer: Int8Linear) -> torch.Tensor:
    return layer.weight.float() * layer.scale[:, None]  # type: ignore[operator,index]


def test_the_product_is_close_to_the_plain_one(linear: nn.Linear) -> None:
    x = torch.randn(7, 96)
    error = (Int8Linear(linear)(x) - linear(x)).abs().max()
    assert error < 0.02 * linear(x).abs().max()


def test_the_product_is_that_of_the_dequantized_weights(linear: nn.Linear) -> None:
    layer, x = Int8Linear(linear), torch.randn(2, 5, 96)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, dequantized(layer), linear.bias))


def test_the_gradient_of_the_input_is_that_of_the_dequantized_weights(linear: nn.Linear) -> None:
    layer, x = Int8Linear(linear), torch.randn(2, 5, 96, requires_grad=True)
    plain = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    wanted = nn.functional.linear(plain, dequantized(layer), linear.bias)
    torch.testing.assert_close(found, *torch.autograd.grad(wanted.square().sum(), plain))


def test_every_row_uses_the_whole_range(linear: nn.Linear) -> None:
    layer = Int8Linear(linear)
    assert (layer.weight.abs().amax(dim=1) == 127).all()  # type: ignore[operator]


def test_a_row_of_zeros_stays_zero(linear: nn.Linear) -> None:
    linear.weight.data[3] = 0
    assert (Int8Linear(linear)(torch.randn(4, 96))[:, 3] == linear.bias[3]).all()


def test_no_copy_of_the_wide_weights_is_kept(linear: nn.Linear) -> None:
    layer = Int8Linear(linear)
    held = {name: tensor.dtype for name, tensor in layer.state_dict(keep_vars=True).items()}
    assert held == {"weight": torch.int8, "scale": torch.float32, "bias": torch.float32}
    assert not [name for name, value in vars(layer).items() if isinstance(value, torch.Tensor)]


def test_nothing_wide_is_kept_for_the_backward_pass(linear: nn.Linear) -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        Int8Linear(linear)(torch.randn(5, 96, requires_grad=True))
    assert kept == []


def test_layers_that_lie_the_other_way_round_are_turned() -> None:
    """GPT-2's, whose weights are (in, out)."""
    torch.manual_seed(1)
    conv, x = Conv1D(40, 96), torch.randn(3, 96)
    layer = Int8Linear(conv)
    assert (layer.in_features, layer.out_features) == (96, 40)
    assert (layer(x) - conv(x)).abs().max() < 0.02 * conv(x).abs().max()


def test_all_linear_layers_are_replaced_but_the_one_to_keep() -> None:
    head = nn.Linear(4, 9)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Conv1D(4, 4), head)
    assert quantize_linears(model, keep=head) == 2
    assert [type(module).__name__ for module in model.modules() if not list(module.children())] == [
        "Int8Linear", "ReLU", "Int8Linear", "Linear",
    ]  # fmt: skip
