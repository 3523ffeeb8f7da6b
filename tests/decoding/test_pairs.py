"""Products of pairs against torch's, and each row beside others against itself alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.decoding import pairs, prompt_attention
from adapter_service.decoding.pairs import BLOCK
from adapter_service.decoding.vectors import WIDTH

SEED = st.integers(0, 2**20)


def some(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def multiplied(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Of rows in bfloat16."""
    (count, length), rows = matrix.shape, len(x)
    y = torch.full((rows, count), float("nan"))
    pairs.multiply_pairs(matrix.data_ptr(), x.data_ptr(), x.stride(0) * 2, y.data_ptr(), count * 4, length, count, rows)
    return y


@given(
    blocks=st.one_of(st.integers(1, 5), st.just(3000 // BLOCK)),
    count=st.integers(1, 140),
    rows=st.integers(1, 67),
    seed=SEED,
)
@settings(max_examples=100, deadline=None)
def test_products_are_torchs_and_a_row_is_the_same_beside_any_others(
    blocks: int, count: int, rows: int, seed: int
) -> None:
    matrix, x = some(count, blocks * BLOCK, seed=seed).bfloat16(), some(rows, blocks * BLOCK, seed=seed + 1).bfloat16()
    found, size = multiplied(matrix, x), x.double().abs() @ matrix.double().abs().T
    assert bool(((found.double() - x.double() @ matrix.double().T).abs() <= 2e-6 * size + 1e-30).all())
    alone = torch.cat([multiplied(matrix, x[row : row + 1]) for row in range(rows)])
    assert torch.equal(found, alone)


@given(vectors=st.integers(1, 5), seed=SEED, size=st.sampled_from([1e-30, 1.0, 1e30]))
@settings(max_examples=50, deadline=None)
def test_numbers_are_rounded_as_torch_rounds_them(vectors: int, seed: int, size: float) -> None:
    numbers, found = some(vectors * WIDTH, seed=seed) * size, torch.empty(vectors * WIDTH, dtype=torch.bfloat16)
    pairs.round_to_pairs(numbers.data_ptr(), found.data_ptr(), len(numbers))
    assert torch.equal(found, numbers.bfloat16())


def test_what_lies_between_two_goes_to_the_even_one_and_what_is_no_number_stays_so() -> None:
    numbers = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, float("inf"), float("-inf"), float("nan"), 0.0, 3e38, 1.0])
    numbers = numbers.repeat(WIDTH // 8)
    found = torch.empty(len(numbers), dtype=torch.bfloat16)
    pairs.round_to_pairs(numbers.data_ptr(), found.data_ptr(), len(numbers))
    assert torch.equal(found.nan_to_num(7.0), numbers.bfloat16().nan_to_num(7.0))


@pytest.mark.parametrize(("heads", "groups"), [(3, 1), (4, 4), (6, 2)])
@given(
    rows=st.integers(1, 40),
    before=st.integers(0, 70),
    window=st.sampled_from([0, 1, 9, 64]),
    size=st.sampled_from([BLOCK, 2 * BLOCK]),
    seed=SEED,
)
@settings(max_examples=40, deadline=None)
def test_a_prompt_attends_as_torchs_does(
    heads: int, groups: int, rows: int, before: int, window: int, size: int, seed: int
) -> None:
    """What is not seen yet is not read: it is no number here."""
    capacity, end = 128, before + rows
    queries = some(rows, heads, size, seed=seed)
    cache = torch.full((2, groups, capacity, size), float("nan"), dtype=torch.bfloat16)
    cache[:, :, :end] = some(2, groups, end, size, seed=seed + 1).bfloat16()
    positions = torch.arange(before, end)
    scores = torch.full((prompt_attention.room_for_scores(end),), float("nan"))
    turned = torch.full((prompt_attention.room_for_turned(end, groups, size),), float("nan"))
    rounded, found = queries.bfloat16(), torch.empty_like(queries)
    seen, stride = (positions.numpy(), window), capacity * size * 2
    for group in range(groups):
        prompt_attention.turn(group, size, cache[1].data_ptr(), stride, *seen, turned.data_ptr())
    for first in range(0, rows, prompt_attention.ROWS_OF_PAIRS):
        count = min(prompt_attention.ROWS_OF_PAIRS, rows - first)
        prompt_attention.attend_to_prompt(
            heads, groups, size, rounded.data_ptr(), cache[0].data_ptr(), stride, turned.data_ptr(), *seen, 0.3,
            first, count, scores.data_ptr(), found.data_ptr(),
        )  # fmt: skip
    keys, values = (part[:, :end].float().repeat_interleave(heads // groups, 0) for part in cache)
    apart = positions[:, None] - torch.arange(end)
    sees = (apart >= 0) & (apart < window) if window else apart >= 0
    wanted = torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(0, 1), keys, values, attn_mask=sees, scale=0.3
    )
    assert float((found.transpose(0, 1) - wanted).norm() / wanted.norm()) < 0.01
