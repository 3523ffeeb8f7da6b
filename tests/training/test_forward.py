"""Which places predict, and what is scored: by lengths, whatever the padding token is."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample, Renderer
from adapter_service.samples import Message, Sample
from adapter_service.training.evaluation import score
from adapter_service.training.forward import MicroBatch, collate, completion_states
from adapter_service.training.packing import lay_out
from adapter_service.training.prefixes import KeptPrefixes
from tests.training.small_run import END, fresh_adapter, some_samples


def whole(base: BaseModel, samples: list[RenderedSample], *, packs: bool = True, shares: bool = True) -> MicroBatch:
    (plan,) = lay_out(samples, 10_000, packs=packs, shares=shares)
    return collate(base, samples, plan)


both_ways = pytest.mark.parametrize("packs", [True, False])


@both_ways
def test_every_completion_token_is_a_target_and_no_prompt_token_is(tiny_base: BaseModel, packs: bool) -> None:
    batch = whole(tiny_base, [RenderedSample((5, 6, 7, 8, END), 3), RenderedSample((9, 10, END), 1)], packs=packs)
    assert batch.targets.tolist() == [8, END, 10, END]
    assert batch.ids[batch.predicts].tolist() == [7, 8, 9, 10]


@both_ways
def test_padding_with_the_end_token_leaves_the_real_end_in_the_loss(tiny_base: BaseModel, packs: bool) -> None:
    short, long = RenderedSample((5, 6, END), 1), RenderedSample((*range(5, 25), END), 10)
    batch = whole(tiny_base, [short, long], packs=packs)
    assert batch.ids[batch.predicts].tolist() == [*range(14, 25), 5, 6]
    assert batch.targets.tolist() == [*range(15, 25), END, 6, END]


def test_packed_samples_of_other_lengths_are_not_padded_and_the_pass_is(tiny_base: BaseModel) -> None:
    samples = [RenderedSample((5, 6, END), 1), RenderedSample((*range(5, 25), END), 10)]
    batch = whole(tiny_base, samples)
    assert batch.positions is not None
    assert batch.positions.tolist() == [[*range(21), *range(3), *range(8)]]
    assert batch.ids.tolist() == [[*samples[1].ids, *samples[0].ids, *[END] * 8]]


def test_what_samples_begin_with_lies_there_once(tiny_base: BaseModel) -> None:
    prefix = tuple(range(50, 67))
    samples = [RenderedSample((*prefix, 5, 6, END), 18), RenderedSample((*prefix, 7, END), 18)]
    batch = whole(tiny_base, samples)
    assert batch.ids.tolist() == [[*prefix, 5, 6, END, 7, END, END, *[END] * 9]]
    assert batch.positions is not None
    assert batch.positions.tolist() == [[*range(17), *range(17, 20), *range(17, 20), *range(9)]]
    assert batch.targets.tolist() == [6, END, END]
    assert batch.ids[batch.predicts].tolist() == [5, 6, 7]


def test_what_is_kept_does_not_lie_there_and_the_rows_have_the_states_that_they_have_behind_it(
    tiny_base: BaseModel,
) -> None:
    short, long = tuple(range(50, 67)), tuple(range(50, 77))
    alike = [RenderedSample((*begin, number, 6, END), len(begin) + 1) for begin in (short, long) for number in range(8)]
    samples = [*alike, some_samples(1)[0]]
    kept = KeptPrefixes(tiny_base.model, tiny_base.device, samples)
    tokens = [kept.tokens_of(sample) for sample in samples]
    assert tokens == [17] * 8 + [27] * 8 + [0]
    (plan,) = lay_out(samples, 10_000, packs=True, shares=True, kept=tokens)
    batch = collate(tiny_base, samples, plan)
    assert batch.prefixes[:2] == (short, long)
    assert batch.ids[0, :6].tolist() == [0, 6, END, 1, 6, END]
    sizes = [samples[at].completion_tokens for at in plan.places]
    behind = torch.split(completion_states(tiny_base.model, batch, kept), sizes)
    for at, states in zip(plan.places, behind, strict=True):
        alone = completion_states(tiny_base.model, whole(tiny_base, [samples[at]]))
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


@both_ways
def test_neither_padding_nor_neighbours_change_a_hidden_state(tiny_base: BaseModel, packs: bool) -> None:
    short, long = some_samples(1, seed=1, longest=8)[0], some_samples(1, seed=2, longest=24)[0]
    alone = completion_states(tiny_base.model, whole(tiny_base, [short], packs=packs))
    beside = completion_states(tiny_base.model, whole(tiny_base, [long, short], packs=packs))
    torch.testing.assert_close(beside[-len(alone) :], alone, rtol=1e-4, atol=1e-5)


def test_scores_are_in_the_order_of_the_samples(tiny_base: BaseModel) -> None:
    samples = some_samples(9)
    together = score(tiny_base, None, samples, budget_tokens=64, pause=lambda: None)
    alone = [score(tiny_base, None, [s], budget_tokens=64, pause=lambda: None).sums[0] for s in samples]
    assert together.tokens == [sample.completion_tokens for sample in samples]
    torch.testing.assert_close(together.sums, alone, rtol=1e-4, atol=1e-4)


def test_an_adapter_is_scored_and_the_base_left_as_it_was(tiny_base: BaseModel) -> None:
    samples = some_samples(3)
    base_alone = score(tiny_base, None, samples, budget_tokens=64, pause=lambda: None)
    adapted = score(tiny_base, fresh_adapter(tiny_base, b=0.5), samples, budget_tokens=64, pause=lambda: None)
    assert adapted.sums != base_alone.sums
    assert score(tiny_base, None, samples, budget_tokens=64, pause=lambda: None) == base_alone


def test_scoring_pauses_between_batches_and_takes_none_of_nothing(tiny_base: BaseModel) -> None:
    pauses: list[int] = []
    score(tiny_base, None, some_samples(9), budget_tokens=32, pause=lambda: pauses.append(1))
    assert len(pauses) > 3
    assert score(tiny_base, None, [], budget_tokens=32, pause=lambda: None).per_token == 0.0


def test_a_plain_text_on_a_base_without_a_begin_token_can_be_scored(tiny_base: BaseModel) -> None:
    """Nothing stands before its first token that could predict it."""

    class NoBegin:
        chat_template = None
        eos_token_id = END
        added_tokens_decoder: ClassVar[dict[int, object]] = {}

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

    rendered = Renderer(NoBegin()).render(Sample((Message("assistant", "abc"),)), 32)
    scored = score(tiny_base, None, [rendered, rendered], budget_tokens=64, pause=lambda: None)
    assert scored.tokens == [3, 3]
