"""Log-probabilities of what was chosen, against a forward pass over the whole and transformers' own processors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from adapter_service.engine.generations import TokenTrail
from adapter_service.engine.requests import Sampling
from tests.answers_by_batch import answers, decode

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

SAMPLED = Sampling(max_new_tokens=16, min_new_tokens=16, do_sample=True, seed=3)


def prompt_ids(base: BaseModel, prompt: str = "Once upon a time") -> list[int]:
    ids: list[int] = base.tokenizer(prompt)["input_ids"]
    return ids


def trails_of(base: BaseModel, prompts: list[list[int]], sampling: Sampling) -> list[TokenTrail]:
    """Each begins with the tokens of its answer."""
    trails = []
    for answer in answers(base, prompts, [replace(sampling, return_tokens=True)] * len(prompts)):
        assert answer.choice is not None
        assert answer.choice.tokens is not None
        assert answer.choice.tokens.ids[: len(answer.tokens)] == answer.tokens
        trails.append(answer.choice.tokens)
    return trails


def trail_of(base: BaseModel, sampling: Sampling) -> TokenTrail:
    return trails_of(base, [prompt_ids(base)], sampling)[0]


@torch.inference_mode()
def policy_logits(base: BaseModel, trail: TokenTrail) -> torch.Tensor:
    """What stood before each token of the trail, (tokens, vocabulary), from one pass over prompt and answer."""
    prompt = prompt_ids(base)
    logits: torch.Tensor = base.model(torch.tensor([prompt + trail.ids])).logits[0].float()
    return logits[len(prompt) - 1 : -1]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=16),
        SAMPLED,
        replace(SAMPLED, temperature=0.6, top_k=20, top_p=0.8, repetition_penalty=1.3),
    ],
    ids=["greedy", "sampled", "cut and penalized"],
)
def test_logprobs_are_the_policys_at_temperature_one_whatever_the_sampling(
    tiny_base: BaseModel, sampling: Sampling
) -> None:
    trail = trail_of(tiny_base, sampling)
    logits = policy_logits(tiny_base, trail)
    wanted = logits.log_softmax(-1)[range(len(trail.ids)), trail.ids]
    torch.testing.assert_close(torch.tensor(trail.logprobs), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.6},
        {"top_k": 20},
        {"top_p": 0.7},
        {"temperature": 0.8, "top_k": 30, "top_p": 0.9},
        {"repetition_penalty": 1.5},
        {"min_p": 0.2},
        {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_sampling_logprobs_are_of_the_distribution_drawn_from(tiny_base: BaseModel, changes: dict[str, float]) -> None:
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    sampling = replace(SAMPLED, **changes)  # type: ignore[arg-type]
    trail = trail_of(tiny_base, sampling)
    scores = policy_logits(tiny_base, trail).clone()
    scores[:, sorted(tiny_base.eos_ids())] = -torch.inf  # no end before the least length
    for place, token in enumerate(trail.ids):
        row, answer = scores[place : place + 1], torch.tensor([trail.ids[:place]], dtype=torch.long)
        if sampling.repetition_penalty != 1.0 and place:
            row = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(answer, row)
        row = TemperatureLogitsWarper(sampling.temperature)(answer, row)
        if sampling.top_k:
            row = TopKLogitsWarper(sampling.top_k)(answer, row)
        if sampling.top_p < 1.0:
            row = TopPLogitsWarper(sampling.top_p)(answer, row)
        if sampling.min_p:
            row = MinPLogitsWarper(sampling.min_p)(answer, row)
        assert trail.sampling_logprobs[place] == pytest.approx(float(row.log_softmax(-1)[0, token]), abs=1e-3)


def test_the_best_token_is_taken_for_sure(tiny_base: BaseModel) -> None:
    trail = trail_of(tiny_base, Sampling(max_new_tokens=16, repetition_penalty=1.3))
    assert set(trail.sampling_logprobs) == {0.0}
    assert max(trail.logprobs) < 0.0


def test_the_end_token_is_part_of_the_trail_and_not_of_the_answer(tiny_base: BaseModel) -> None:
    greedy = Sampling(max_new_tokens=8, min_new_tokens=8)
    whole = trail_of(tiny_base, greedy).ids
    end = next(token for place, token in enumerate(whole) if place and token not in whole[:place])
    ended = replace(greedy, min_new_tokens=0, extra_eos_ids=frozenset({end}))
    tokens = decode(tiny_base, prompt_ids(tiny_base), ended)
    assert trail_of(tiny_base, ended).ids == [*tokens, end] == whole[: len(tokens) + 1]


def test_a_trail_changes_no_choice(tiny_base: BaseModel) -> None:
    sampling = replace(SAMPLED, temperature=0.7, top_p=0.9)
    assert decode(tiny_base, prompt_ids(tiny_base), sampling) == trail_of(tiny_base, sampling).ids


def test_each_of_a_batch_has_a_trail_of_its_own(tiny_base: BaseModel) -> None:
    prompts = [prompt_ids(tiny_base), prompt_ids(tiny_base, "Hi")]
    trails = trails_of(tiny_base, prompts, SAMPLED)
    alone = trail_of(tiny_base, SAMPLED)
    assert trails[0].ids == alone.ids
    assert trails[0].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert len(trails[1].ids) == 16
