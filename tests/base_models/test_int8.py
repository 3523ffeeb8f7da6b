"""Eight-bit layers: small in memory, close in value, and their gradient exact or rounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapter_service.base_models import int8
from adapter_service.base_models.int8 import Int8Linear, quantize_linears, rounded_product


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(96, 40)


def dequantized(layer: Int8Linear) -> torch.Tensor:
    return layer.weight.float() * layer.scale[:, None]


def test_the_product_is_close_to_the_plain_one(linear: nn.Linear) -> None:
    x = torch.randn(7, 96)
    error = (Int8Linear(linear)(x) - linear(x)).abs().max()
    assert error < 0.02 * linear(x).abs().max()


def test_the_product_is_that_of_the_dequantized_weights(linear: nn.Linear) -> None:
    layer, x = Int8Linear(linear), torch.randn(2, 5, 96)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, dequantized(layer), linear.bias))


def input_gradients(layer: Int8Linear, rows: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a loss over `rows` rows: through the layer, and through its weights made wide."""
    x = torch.randn(2, rows // 2, layer.in_features, requires_grad=True)
    plain = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    wanted = nn.functional.linear(plain, dequantized(layer), layer.bias)
    return found, torch.autograd.grad(wanted.square().sum(), plain)[0]


def test_without_fast_int8_products_the_gradient_is_that_of_the_dequantized_weights(
    linear: nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "int8_products_are_fast", lambda: False)
    torch.testing.assert_close(*input_gradients(Int8Linear(linear)))


def test_with_fast_int8_products_the_gradient_is_rounded_and_no_more(
    linear: nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "int8_products_are_fast", lambda: True)
    found, wanted = input_gradients(Int8Linear(linear), rows=400)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.01
    assert abs(float((found * wanted).sum() / wanted.square().sum()) - 1) < 1e-3  # it leans to no side


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_very_different_size_are_rounded_each_by_itself(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    grad = torch.randn(6, 40, dtype=torch.float64) * torch.logspace(-20, 5, 6, dtype=torch.float64)[:, None]
    q = torch.randint(-127, 128, (40, 96), dtype=torch.int8)
    wanted = grad @ q.double()
    found = rounded_product(grad.to(dtype), q, torch.ones(40, dtype=dtype))
    assert float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_of_a_row_does_not_turn_its_sign(dtype: torch.dtype) -> None:
    """The conversion to int8 wraps around: 128 becomes -128."""
    largest = torch.linspace(0.5, 1.0, 4001)[:, None].to(dtype)
    one = torch.ones(2, dtype=dtype)
    found = rounded_product(torch.cat([largest, -largest], dim=1), torch.eye(2, dtype=torch.int8), one)
    torch.testing.assert_close(found, torch.cat([largest, -largest], dim=1), rtol=0.02, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stays_so(value: float) -> None:
    grad = torch.ones(2, 4)
    grad[1, 2] = value
    found = rounded_product(grad, torch.ones(4, 3, dtype=torch.int8), torch.ones(4))
    torch.testing.assert_close(found[0], torch.full((3,), 4.0))
    assert not found[1].isfinite().any()


def test_a_gradient_of_zeros_stays_zero() -> None:
    """As that of padding is."""
    assert (rounded_product(torch.zeros(2, 4), torch.ones(4, 3, dtype=torch.int8), torch.ones(4)) == 0).all()


@pytest.mark.parametrize("features", [64, 96, 100, 192])
@pytest.mark.parametrize("rows", [0, 1, 3, 8, 9])
def test_few_rows_are_multiplied_as_many_are(rows: int, features: int) -> None:
    """Decoding goes another way than training; of widths that are no multiple of 64, no bfloat16 row does."""
    torch.manual_seed(1)
    layer = Int8Linear(nn.Linear(features, 40, bias=False)).bfloat16()
    x = torch.randn(max(rows, 16), features).bfloat16()
    torch.testing.assert_close(layer(x[:rows]), layer(x)[:rows], rtol=0.02, atol=0.02)


def test_one_vector_gives_one_vector() -> None:
    layer = Int8Linear(nn.Linear(64, 40)).bfloat16()
    assert layer(torch.ones(64, dtype=torch.bfloat16)).shape == (40,)


def test_what_answers_first_can_train_after_it(linear: nn.Linear) -> None:
    """The room for wide weights is made in one mode of autograd and written to in another."""

    def answer_and_train() -> torch.Tensor:  # on a thread of its own, that has no room yet
        layer, x = Int8Linear(linear), torch.randn(20, 96, requires_grad=True)
        with torch.inference_mode():
            layer(x)
        return torch.autograd.grad(layer(x).sum(), x)[0]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(answer_and_train).result().shape == (20, 96)


def test_layers_that_share_the_room_do_not_disturb_each_other(linear: nn.Linear) -> None:
    torch.manual_seed(2)
    first, second = Int8Linear(linear), Int8Linear(nn.Linear(40, 200))
    x = torch.randn(20, 96, requires_grad=True)
    wide = nn.functional.linear(nn.functional.linear(x, dequantized(first), linear.bias), dequantized(second))
    for _ in range(2):
        y = second(first(x))
        torch.testing.assert_close(y - second.bias, wide)
        y.sum().backward()


def test_threads_multiply_at_once(linear: nn.Linear) -> None:
    layers = [Int8Linear(nn.Linear(96, 96)) for _ in range(4)]
    x = torch.randn(32, 96)
    wanted = [layer(x) for layer in layers]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda layer: [layer(x) for _ in range(50)], layers))
    assert all(torch.equal(each, one) for each_of, one in zip(found, wanted, strict=True) for each in each_of)


def test_the_scale_is_one_that_bfloat16_has(linear: nn.Linear) -> None:
    scale = Int8Linear(linear).scale
    assert torch.equal(scale.bfloat16().float(), scale)


def test_every_row_uses_the_whole_range(linear: nn.Linear) -> None:
    layer = Int8Linear(linear)
    assert (layer.weight.abs().amax(dim=1) == 127).all()


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
