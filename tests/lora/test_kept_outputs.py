"""Outputs that are kept for a second pass: not made again, and with the gradient of the layer as it is."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from adapter_service.base_models.int8 import Int8Linear
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.kept_outputs import KeptOutputs
from adapter_service.lora.layer import LowRankLinear, install, using
from tests.lora.conftest import KINDS


def two_layers(kind: str) -> tuple[nn.Sequential, list[LowRankLinear], Adapter]:
    """12 to 8, which is kept, and 8 to 12, which is not; with B that is not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(KINDS[kind](12, 8), KINDS[kind](8, 12)).requires_grad_(requires_grad=False)
    layers = install(model)
    adapter = Adapter.fresh(LoraConfig(r=2), layers, seed=0)
    for pair in adapter.pairs.values():
        nn.init.normal_(pair.b)
    return model, list(layers.values()), adapter


def gradients(model: Any, adapter: Adapter, outputs: KeptOutputs | None, times: int = 1) -> list[torch.Tensor]:
    """Of the input and of the adapter, after the last of so many passes with `outputs`."""
    x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for _ in range(times):
        with using(adapter):
            if outputs is None:
                y = model(x)
            else:
                with outputs.in_use():
                    y = model(x)
    return list(torch.autograd.grad(y.square().sum(), [x, *adapter.parameters()]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_gradient_is_that_of_the_layer_without_it(kind: str, times: int) -> None:
    model, _, adapter = two_layers(kind)
    plain = gradients(model, adapter, None)
    kept = gradients(model, adapter, KeptOutputs(), times)
    for wanted, found in zip(plain, kept, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_narrow_output_is_made_once_and_a_wide_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers, adapter = two_layers("linear")
    made: list[int] = []
    for layer in layers:
        layer.linear.register_forward_hook(lambda _, __, y: made.append(y.shape[-1]))
    gradients(model, adapter, KeptOutputs(), times=3)
    assert made == [8, 12, 12, 12]


def test_an_output_that_was_written_to_is_made_again() -> None:
    _, layers, adapter = two_layers("linear")
    outputs, x = KeptOutputs(), torch.randn(3, 12)
    with using(adapter), outputs.in_use():
        first = layers[0](x)
        wanted = first.detach().clone()
        first.mul_(2)
    with using(adapter), outputs.in_use():
        torch.testing.assert_close(layers[0](x), wanted)


def test_the_first_layer_asks_for_no_gradient_of_an_input_that_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _, layers, adapter = two_layers("linear")
    asked: list[int] = []
    monkeypatch.setattr("adapter_service.lora.product.input_gradient", lambda *_: asked.append(1))
    with using(adapter), KeptOutputs().in_use():
        layers[0](torch.randn(3, 12)).sum().backward()
    assert not asked


@pytest.mark.parametrize("outputs", [None, KeptOutputs()], ids=["plain", "kept"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_may_be_given_no_rows(kind: str, outputs: KeptOutputs | None) -> None:
    _, layers, adapter = two_layers(kind)
    with using(adapter), outputs.in_use() if outputs else nullcontext():
        assert layers[0](torch.randn(0, 12, requires_grad=True)).shape == (0, 8)


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_a_pass_of_few_rows_trains_beside_8_bits(rows: int) -> None:
    """Few rows in bfloat16 go through a kernel of their own, and the low-rank product is added to what it gives."""
    torch.manual_seed(0)
    layers = install(nn.Sequential(Int8Linear(nn.Linear(64, 64, bias=False, dtype=torch.bfloat16))))
    adapter = Adapter.fresh(LoraConfig(r=2), layers, seed=0)
    x = torch.randn(rows, 64, dtype=torch.bfloat16, requires_grad=True)
    with using(adapter):
        next(iter(layers.values()))(x).sum().backward()
    assert all(pair.b.grad is not None and pair.b.grad.any() for pair in adapter.pairs.values())
