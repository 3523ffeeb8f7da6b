"""Adapters as they are served: the trained ones' products, in matrices of a rank class, and nothing of training."""

from __future__ import annotations

import pytest
import torch

from adapter_service.lora.adapter import LoraConfig
from adapter_service.lora.resident import OneAdapter, ResidentAdapter
from tests.lora.conftest import MakeAdapter

CPU = torch.device("cpu")
PATTERNS = LoraConfig(r=4, alpha=8, use_rslora=True, rank_pattern={"q_proj": 17}, alpha_pattern={"v_proj": 3})


@pytest.mark.parametrize(("rank", "rank_class"), [(1, 8), (8, 8), (9, 16), (64, 64), (65, 128)])
def test_the_rank_class_is_the_next_power_of_two(make_adapter: MakeAdapter, rank: int, rank_class: int) -> None:
    assert ResidentAdapter.of("v", make_adapter(LoraConfig(r=rank)), torch.float32, CPU).rank_class == rank_class


def test_each_layer_adds_the_pairs_product_at_its_own_scale(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(PATTERNS)
    served = ResidentAdapter.of("v", adapter, torch.float32, CPU)
    assert served.factors.keys() == adapter.pairs.keys()
    for path, pair in adapter.pairs.items():
        x = torch.randn(3, pair.a.shape[1], generator=torch.Generator().manual_seed(1))
        y = torch.zeros(3, pair.b.shape[0])
        with torch.inference_mode():
            torch.testing.assert_close(OneAdapter(served).add(path, x, y.clone()), pair.product(x))
            torch.testing.assert_close(OneAdapter(served, 0.5).add(path, x, y.clone()), 0.5 * pair.product(x))


def test_a_layer_that_it_does_not_change_stays_as_it_is(make_adapter: MakeAdapter) -> None:
    served = ResidentAdapter.of("v", make_adapter(LoraConfig(r=4, target_modules=("q_proj",))), torch.float32, CPU)
    y = torch.ones(2, 3)
    assert OneAdapter(served).add("model.layers.0.mlp.up_proj", torch.ones(2, 5), y) is y


def test_it_is_a_copy_that_no_gradient_reaches(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(LoraConfig(r=8))
    served = ResidentAdapter.of("v", adapter, torch.float32, CPU)
    before = [matrix.clone() for matrix in served.matrices()]
    for parameter in adapter.parameters():
        parameter.data.zero_()
    assert all(torch.equal(one, other) for one, other in zip(served.matrices(), before, strict=True))
    assert not any(matrix.requires_grad for matrix in served.matrices())


def test_its_size_is_that_of_its_matrices(make_adapter: MakeAdapter) -> None:
    """Rank 4 takes the room of rank 8."""
    adapter = make_adapter(LoraConfig(r=4))
    in_float32 = ResidentAdapter.of("v", adapter, torch.float32, CPU)
    assert in_float32.size_bytes == 2 * adapter.size_bytes
    assert ResidentAdapter.of("v", adapter, torch.bfloat16, CPU).size_bytes == in_float32.size_bytes // 2


def test_repeated_rows_take_no_memory(make_adapter: MakeAdapter) -> None:
    served = ResidentAdapter.of("v", make_adapter(), torch.float32, CPU)
    for path, factors in served.repeated(5).items():
        assert factors.a.shape[0] == factors.b.shape[0] == 5
        assert factors.a.data_ptr() == served.factors[path].a.data_ptr()
    assert served.repeated(5) is served.repeated(5)
