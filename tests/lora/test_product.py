"""A frozen layer and its low-rank product in one step: the numbers are those of plain autograd over both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from adapter_service.lora.adapter import LowRankPair
from adapter_service.lora.product import trained_product
from tests.lora.conftest import KINDS

Both = tuple[torch.Tensor, list[torch.Tensor]]


def pair_of(dropout: float) -> LowRankPair:
    torch.manual_seed(1)
    pair = LowRankPair(torch.randn(2, 12), torch.randn(8, 2), scale=0.5, dropout=dropout)
    pair.dropout_generator = torch.Generator().manual_seed(3)
    return pair


def plainly(x: torch.Tensor, linear: nn.Module, pair: LowRankPair) -> torch.Tensor:
    kept = pair.draw_kept(x.reshape(-1, 12))
    seen = x if kept is None else x * kept.view_as(x) / (1 - pair.dropout)
    y: torch.Tensor = linear(x) + seen @ pair.a.T @ pair.b.T * pair.scale
    return y


def run(product: Callable[[torch.Tensor, nn.Module, LowRankPair], torch.Tensor], kind: str, dropout: float) -> Both:
    torch.manual_seed(0)
    linear = KINDS[kind](12, 8).requires_grad_(requires_grad=False)
    pair, x = pair_of(dropout), torch.randn(2, 3, 12, requires_grad=True)
    y = product(x, linear, pair)
    return y, list(torch.autograd.grad(y.square().sum(), [x, pair.a, pair.b]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_output_and_gradients_are_those_of_plain_autograd(kind: str, dropout: float) -> None:
    found = run(lambda x, linear, pair: trained_product(x, linear, pair, None), kind, dropout)
    torch.testing.assert_close(found, run(plainly, kind, dropout), rtol=1e-5, atol=1e-5)


def test_inputs_are_dropped_by_the_generator() -> None:
    kept = [pair_of(0.25).draw_kept(torch.ones(1, 1000)) for _ in range(2)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert torch.equal(kept[0], kept[1])
    assert int(kept[0].sum()) == pytest.approx(750, abs=60)


def test_in_16_bits_what_is_kept_stands_for_the_rest_without_a_bias() -> None:
    """1 / (1 - 0.05) is 1.0547 in bfloat16, 0.2 % more than it is."""
    pair = LowRankPair(torch.ones(1, 4096), torch.ones(1, 1), scale=1.0, dropout=0.05)
    linear = nn.Linear(4096, 1, bias=False, dtype=torch.bfloat16).requires_grad_(requires_grad=False)
    x = (1 + torch.rand(64, 4096, generator=torch.Generator().manual_seed(1))).bfloat16()
    pair.dropout_generator = torch.Generator().manual_seed(0)
    torch.autograd.backward(trained_product(x, linear, pair, None).sum())
    pair.dropout_generator.manual_seed(0)
    kept = pair.draw_kept(x)
    assert kept is not None
    assert pair.a.grad is not None
    assert float(pair.a.grad.sum() / (x.float() * kept).sum()) == pytest.approx(1 / 0.95, rel=5e-4)


def test_nothing_is_dropped_without_a_generator() -> None:
    pair = pair_of(0.25)
    pair.dropout_generator = None
    assert pair.draw_kept(torch.ones(1, 10)) is None
