"""The loss over a sampled vocabulary: exact for its objective, right in the mean, full where nothing is left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from adapter_service.rendering import RenderedSample
from adapter_service.settings import LossSettings
from adapter_service.training.loss import Head, completion_loss
from adapter_service.training.vocabulary import SampledVocabulary, Vocabulary, columns_for, tokens_of, vocabulary_of

VOCABULARY, HIDDEN, ROWS = 1000, 6, 37
OWN = tuple(range(3, 300, 3))  # 99 tokens
TARGETS = torch.tensor(OWN)[torch.randint(len(OWN), (ROWS,), generator=torch.Generator().manual_seed(3))]
NORMALIZER = 50.0
SHAPINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": torch.linspace(-1, 1, VOCABULARY)},
    "softcap": {"softcap": 3.0},
    "scale": {"scale": 0.25},
    "all": {"bias": torch.linspace(-1, 1, VOCABULARY), "softcap": 3.0, "scale": 0.25},
}


def some_head(**shaping: Any) -> Head:
    return Head(torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(2)), **shaping)


def some_hidden() -> torch.Tensor:
    return torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(1)).requires_grad_()


def drawn(head: Head, tail: int, *, step: int = 0, seed: int = 0) -> SampledVocabulary:
    vocabulary = SampledVocabulary(head, OWN, tail)
    vocabulary.draw(seed, step)
    return vocabulary


def value_and_gradient(loss: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    (gradient,) = torch.autograd.grad(loss, hidden)
    return loss.detach(), gradient


def tokens_of_tail(vocabulary: SampledVocabulary, head: Head, tail: int) -> list[int]:
    """Found by their rows of the head, which no two tokens share."""
    rows = vocabulary._head.weight[-tail:]
    return [int((head.weight == row).all(1).nonzero()) for row in rows]


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_value_and_gradient_are_those_of_the_sampled_objective(shaping: str) -> None:
    head, tail = some_head(**SHAPINGS[shaping]), 64
    vocabulary = drawn(head, tail)
    hidden = some_hidden()
    ours = value_and_gradient(vocabulary.loss(hidden, TARGETS, NORMALIZER), hidden)

    exact = some_hidden().detach().double().requires_grad_()
    chosen = torch.tensor([*OWN, *tokens_of_tail(vocabulary, head, tail)])
    bias = None if head.bias is None else head.bias[chosen].double()
    logits = torch.nn.functional.linear(exact, head.weight[chosen].double(), bias) * head.scale
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    raise_by = math.log((VOCABULARY - len(OWN)) / tail)
    logits = logits + torch.tensor([0.0] * len(OWN) + [raise_by] * tail, dtype=torch.float64)
    places = torch.searchsorted(torch.tensor(OWN), TARGETS)
    plain = value_and_gradient(cross_entropy(logits, places, reduction="sum") / NORMALIZER, exact)
    torch.testing.assert_close([x.double() for x in ours], list(plain), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_with_every_other_token_drawn_it_is_the_full_loss(shaping: str) -> None:
    head, hidden = some_head(**SHAPINGS[shaping]), some_hidden()
    vocabulary = drawn(head, VOCABULARY - len(OWN))
    sampled = value_and_gradient(vocabulary.loss(hidden, TARGETS, NORMALIZER), hidden)
    full = value_and_gradient(completion_loss(hidden, TARGETS, head, NORMALIZER), hidden)
    torch.testing.assert_close(sampled, full, rtol=1e-5, atol=1e-6)


def test_the_partition_function_is_that_of_the_whole_vocabulary_in_the_mean() -> None:
    head, hidden, draws = some_head(), 0.3 * some_hidden().detach()[:1], 500
    target = torch.tensor([OWN[0]])
    vocabulary = SampledVocabulary(head, OWN, 64)
    at_target = (hidden @ head.weight[OWN[0]]).double()

    def partition(loss: torch.Tensor) -> float:
        return float((loss.double() + at_target).exp())

    estimates = []
    for step in range(draws):
        vocabulary.draw(0, step)
        estimates.append(partition(vocabulary.loss(hidden, target, 1.0)))
    found = torch.tensor(estimates, dtype=torch.float64)
    error = float(found.std()) / math.sqrt(draws)
    whole = partition(completion_loss(hidden, target, head, 1.0))
    assert error < 0.02 * whole
    assert abs(float(found.mean()) - whole) < 4 * error


def test_a_larger_tail_is_nearer_to_the_full_loss() -> None:
    head, hidden = some_head(), some_hidden().detach()
    full = float(completion_loss(hidden, TARGETS, head, ROWS))

    def mean_error(tail: int) -> float:
        vocabulary = SampledVocabulary(head, OWN, tail)
        errors = []
        for step in range(50):
            vocabulary.draw(0, step)
            errors.append(abs(float(vocabulary.loss(hidden, TARGETS, ROWS)) - full))
        return sum(errors) / len(errors)

    assert mean_error(800) < mean_error(256) < mean_error(64)


def test_every_step_has_another_tail_and_no_own_token_in_it() -> None:
    head = some_head()
    tails = [tokens_of_tail(drawn(head, 64, step=step), head, 64) for step in range(3)]
    assert tails[0] != tails[1] != tails[2]
    for tail in tails:
        assert len({*tail, *OWN}) == 64 + len(OWN)


def test_the_same_seed_and_step_draw_the_same_whatever_was_drawn_before() -> None:
    head = some_head()
    again = drawn(head, 64, step=1)
    again.draw(0, 7)
    assert tokens_of_tail(again, head, 64) == tokens_of_tail(drawn(head, 64, step=7), head, 64)
    assert tokens_of_tail(drawn(head, 64, seed=1), head, 64) != tokens_of_tail(drawn(head, 64), head, 64)


def test_the_tail_is_not_drawn_from_the_process_s_own_numbers() -> None:
    before = torch.get_rng_state()
    drawn(some_head(), 64)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_prompt_s_tokens_are_among_those_of_the_samples() -> None:
    assert tokens_of([RenderedSample((5, 6, 7, 1), 2), RenderedSample((8, 6), 1)]) == {1, 5, 6, 7, 8}


@pytest.mark.parametrize(
    ("own", "whole", "columns"),
    [(100, 1000, 192), (128, 1000, 192), (129, 1000, 256), (900, 1000, 1000), (936, 1000, 1000), (930, 1000, 1000)],
)
def test_columns_are_a_multiple_of_64_or_all(own: int, whole: int, columns: int) -> None:
    assert columns_for(own, whole, LossSettings(vocabulary="sampled", sampled_tokens=64)) == columns
    assert columns_for(own, whole, LossSettings()) == whole


def test_where_nothing_is_left_out_the_loss_is_the_full_one_and_that_is_said() -> None:
    notes: list[str] = []
    samples = [RenderedSample(OWN, 1)]
    many = vocabulary_of(some_head(), samples, LossSettings(vocabulary="sampled", sampled_tokens=901), notes.append)
    assert (type(many), many.kind) == (Vocabulary, "all")
    assert notes == ["the samples have 99 tokens, and 901 more are all of the base's 1000: loss.vocabulary is all"]
    few = vocabulary_of(some_head(), samples, LossSettings(vocabulary="sampled", sampled_tokens=64), notes.append)
    assert (few.kind, few._head.weight.shape[0], len(notes)) == ("sampled", 192, 1)
