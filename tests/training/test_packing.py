"""Packing: every sample once, within the budget, and nothing computed twice that need not be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.base_models.layout import Segment
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.training.forward import collate
from adapter_service.training.packing import MicroPlan, lay_out
from tests.training.small_run import END, NO_CLIPPING, fresh_adapter, run, small_settings

PROMPTS: tuple[list[int], ...] = ([3] * 30, [3] * 16 + [4] * 40, [5] * 9, [])


def sample(prompt: list[int], own: int, completion: int) -> RenderedSample:
    ids = [9, *prompt, *range(20, 20 + own), *range(60, 60 + completion), END]
    return RenderedSample(ids, 1 + len(prompt) + own)


some_samples = st.lists(
    st.builds(sample, st.sampled_from(PROMPTS), st.integers(0, 12), st.integers(1, 20)), max_size=30
)


def plans_of(samples: list[RenderedSample], budget: int = 128, *, shares: bool = True) -> list[MicroPlan]:
    return list(lay_out(samples, budget, packs=True, shares=shares))


def prefixes(plan: MicroPlan) -> list[int]:
    """Tokens that each segment with rows of its own has in common."""
    assert plan.layout is not None
    return [segment.prefix for segment in plan.layout if rows_of(segment) > 1]


def rows_of(segment: Segment) -> int:
    return sum(block.rows for block in segment.blocks)


@given(samples=some_samples, budget=st.integers(8, 256), packs=st.booleans(), shares=st.booleans())
def test_every_sample_is_in_one_pass_and_passes_keep_to_the_budget(
    samples: list[RenderedSample], budget: int, packs: bool, shares: bool
) -> None:
    plans = list(lay_out(samples, budget, packs=packs, shares=shares))
    assert sorted(place for plan in plans for place in plan.places) == list(range(len(samples)))
    for plan in plans:
        assert plan.tokens <= budget or len(plan.places) == 1


@given(samples=some_samples, budget=st.integers(8, 256))
def test_behind_kept_prefixes_every_sample_is_in_one_pass_of_what_is_its_own(
    samples: list[RenderedSample], budget: int
) -> None:
    kept = [one.completion_start // 2 for one in samples]
    plans = list(lay_out(samples, budget, packs=True, shares=True, kept=kept))
    assert sorted(place for plan in plans for place in plan.places) == list(range(len(samples)))
    for plan in plans:
        assert plan.layout is not None
        assert plan.tokens == sum(size for segment in plan.layout for size in segment.sizes[1:])
        assert plan.tokens <= budget or len(plan.places) == 1
        assert {segment.prefix for segment in plan.layout} - {0} <= {kept[place] for place in plan.places}


@given(samples=some_samples, budget=st.integers(8, 256), shares=st.booleans())
def test_the_layout_has_all_tokens_of_a_pass(samples: list[RenderedSample], budget: int, shares: bool) -> None:
    for plan in plans_of(samples, budget, shares=shares):
        assert plan.layout is not None
        assert sum(size for segment in plan.layout for size in segment.sizes) == plan.tokens
        rows = sum(rows_of(segment) for segment in plan.layout)
        assert rows in {len(plan.places), len(plan.places) + 1}  # one is padding
        assert all(segment.prefix == 0 or rows_of(segment) > 1 for segment in plan.layout)


@given(samples=some_samples, shares=st.booleans())
def test_little_of_a_pass_is_padding(samples: list[RenderedSample], shares: bool) -> None:
    for plan in plans_of(samples, 10_000, shares=shares):
        assert plan.layout is not None
        blocks = sum(len(segment.blocks) for segment in plan.layout)
        shared = sum(segment.prefix * (rows_of(segment) - 1) for segment in plan.layout)
        needed = sum(len(samples[place].ids) for place in plan.places) - shared
        assert needed <= plan.tokens < needed + 16 * blocks + 16


def test_a_long_prompt_of_many_samples_is_there_once() -> None:
    samples = [sample([3] * 400, own, 8) for own in range(1, 65)]
    (plan,) = plans_of(samples, 10_000)
    assert prefixes(plan) == [401]
    assert plan.tokens < sum(len(sample.ids) for sample in samples) / 5


def test_prompts_that_begin_alike_are_grouped_by_what_saves_most() -> None:
    one, other = [3] * 24 + [4] * 100, [3] * 24 + [5] * 100
    samples = [sample(prompt, own, 5) for prompt in (one, other) for own in range(1, 5)]
    (plan,) = plans_of(samples, 10_000)
    assert prefixes(plan) == [125, 125]


def test_a_place_that_predicts_belongs_to_its_own_sample() -> None:
    same = RenderedSample([3] * 16 + [7, END], 12)
    (plan,) = plans_of([same, same], 10_000)
    assert prefixes(plan) == [11]


def test_a_few_tokens_are_not_worth_sharing() -> None:
    samples = [sample([3] * 6, 0, own) for own in range(2, 6)]
    (plan,) = plans_of(samples, 10_000)
    assert prefixes(plan) == [0]


def test_the_gradient_with_shared_prefixes_is_that_without(tiny_base: BaseModel) -> None:
    samples = [sample(PROMPTS[i % 4], i % 5, 3 + i % 7) for i in range(12)]
    settings = small_settings(
        max_steps=1, per_device_train_batch_size=12, max_grad_norm=NO_CLIPPING, token_budget=512, max_seq_length=512
    )
    gradients = [_gradients(tiny_base, samples, settings, budget) for budget in (512, 8)]  # 8: each by itself
    for shared, alone in zip(*gradients, strict=True):
        assert (shared - alone).norm() <= 1e-5 * alone.norm()


def _gradients(base: BaseModel, samples: list[RenderedSample], settings: Any, budget: int) -> list[torch.Tensor]:
    one = settings.model_copy(update={"token_budget": budget})
    return run(base, samples, one, adapter=fresh_adapter(base, b=0.1)).gradients


def test_dropout_draws_for_each_sample_so_that_nothing_is_shared(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapter_service.training import loop as loop_module

    seen: list[MicroPlan] = []

    def noted(base: BaseModel, samples: Any, plan: MicroPlan) -> Any:
        seen.append(plan)
        return collate(base, samples, plan)

    monkeypatch.setattr(loop_module, "collate", noted)
    samples = [sample(PROMPTS[0], i, 4) for i in range(4)]
    for dropout in (0.0, 0.1):
        run(tiny_base, samples, small_settings(token_budget=512), adapter=fresh_adapter(tiny_base, dropout=dropout))
    assert [prefixes(plan) for plan in seen] == [[30], [0]]
