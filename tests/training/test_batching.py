"""Batching: every sample once, within the budget, and the same plan for the same seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.training.batching import (
    PAD_MULTIPLE,
    padded_length,
    plan_epoch,
    split,
    steps_per_epoch,
)

BUDGET = 64
some_lengths = st.lists(st.integers(1, BUDGET), max_size=150)
per_step = st.integers(1, 9)


def plan(lengths: list[int], sequences_per_step: int, *, seed: int = 0, epoch: int = 0) -> list[tuple[int, ...]]:
    return list(plan_epoch(lengths, sequences_per_step=sequences_per_step, seed=seed, epoch=epoch))


@given(lengths=some_lengths, per_step=per_step)
def test_every_sample_is_in_exactly_one_step(lengths: list[int], per_step: int) -> None:
    indices = [index for step in plan(lengths, per_step) for index in step]
    assert sorted(indices) == list(range(len(lengths)))


@given(lengths=some_lengths, per_step=per_step)
def test_steps_have_the_set_number_of_sequences_but_for_one_rest(lengths: list[int], per_step: int) -> None:
    sizes = sorted((len(step) for step in plan(lengths, per_step)), reverse=True)
    assert len(sizes) == steps_per_epoch(len(lengths), per_step)
    assert all(size == per_step for size in sizes[:-1])


@given(lengths=some_lengths, budget=st.integers(1, 2 * BUDGET))
def test_a_group_fits_the_budget_when_padded_or_is_one_sequence(lengths: list[int], budget: int) -> None:
    groups = split(lengths, budget)
    for group in groups:
        padded = padded_length(max(lengths[index] for index in group)) * len(group)
        assert padded <= budget or len(group) == 1
    in_order = [lengths[index] for group in groups for index in group]
    assert in_order == sorted(lengths, reverse=True)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))


@given(lengths=some_lengths, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 5))
def test_seed_and_epoch_decide_the_plan(lengths: list[int], seed: int, epoch: int) -> None:
    assert plan(lengths, 4, seed=seed, epoch=epoch) == plan(lengths, 4, seed=seed, epoch=epoch)


def test_another_epoch_and_another_seed_have_other_plans() -> None:
    lengths = list(range(1, 60))
    plans = [plan(lengths, 4, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert plans[0] != plans[1]
    assert plans[0] != plans[2]


def test_samples_of_a_step_are_of_like_length() -> None:
    lengths = [4, 60] * 40
    spread = [max(ls) - min(ls) for step in plan(lengths, 8) if (ls := [lengths[i] for i in step])]
    assert spread.count(0) == len(spread)


def test_samples_of_like_length_meet_others_in_another_epoch() -> None:
    steps = [{frozenset(step) for step in plan([20] * 64, 4, epoch=epoch)} for epoch in range(2)]
    assert not steps[0] & steps[1]


@pytest.mark.parametrize(("tokens", "padded"), [(1, 8), (8, 8), (9, 16)])
def test_lengths_are_padded_to_a_multiple(tokens: int, padded: int) -> None:
    assert (padded_length(tokens), PAD_MULTIPLE) == (padded, 8)
