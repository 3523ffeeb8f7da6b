"""Laws of choosing a token."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.engine.requests import Sampling
from adapter_service.engine.sampling import TokenChooser

# Eighths: far enough from each other for float32 to keep them apart.
LOGITS = st.lists(st.integers(-240, 240).map(lambda eighths: eighths / 8), min_size=1, max_size=12)


def drawn(logits: list[float] | torch.Tensor, count: int = 40, **options: object) -> Counter[int]:
    """How often each token is drawn."""
    chooser = TokenChooser(Sampling(do_sample=True, seed=0, **options), frozenset())  # type: ignore[arg-type]
    values = torch.as_tensor(logits, dtype=torch.float32)
    return Counter(chooser.choose(values, []) for _ in range(count))


def nucleus(logits: torch.Tensor, top_p: float) -> set[int]:
    """By the definition: the smallest set of best tokens whose probabilities reach top_p."""
    probabilities = logits.double().softmax(-1)
    kept, reached = set[int](), 0.0
    for token in logits.argsort(descending=True, stable=True).tolist():
        if reached >= top_p:
            break
        kept.add(token)
        reached += float(probabilities[token])
    return kept


@given(LOGITS)
def test_greedy_takes_the_best(logits: list[float]) -> None:
    token = TokenChooser(Sampling(), frozenset()).choose(torch.tensor(logits), [])
    assert torch.tensor(logits)[token] == max(torch.tensor(logits))


@given(LOGITS)
def test_temperature_zero_is_greedy(logits: list[float]) -> None:
    assert set(drawn(logits, 3, temperature=0.0)) == {int(torch.tensor(logits).argmax())}


@given(LOGITS, st.sampled_from([5e-324, 1e-40, 1e-12, 1e-3]), st.sampled_from([0.5, 1.0]))
def test_no_temperature_is_too_low_to_draw_a_best_token(logits: list[float], temperature: float, top_p: float) -> None:
    best = max(logits)
    assert all(logits[token] >= best - 0.5 for token in drawn(logits, 3, temperature=temperature, top_p=top_p))


@given(LOGITS, st.integers(1, 12))
def test_nothing_outside_the_best_k_is_drawn(logits: list[float], top_k: int) -> None:
    worst_kept = sorted(logits, reverse=True)[:top_k][-1]
    # Logits are compared as float32 below the best one, where hardly different ones are alike.
    assert all(logits[token] >= worst_kept - 1e-5 for token in drawn(logits, top_k=top_k))


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=10, unique=True), st.floats(0.05, 0.99))
def test_only_the_smallest_set_that_reaches_top_p_is_drawn(logits: list[int], top_p: float) -> None:
    values = torch.tensor(logits, dtype=torch.float32)
    found = set(drawn(values, top_p=top_p))
    # A sum on the very border may fall on either side of it, by rounding.
    assert found <= nucleus(values, top_p + 1e-6)


def test_every_token_of_the_smallest_set_is_drawn() -> None:
    logits = torch.tensor([0.40, 0.05, 0.30, 0.25]).log()
    assert set(drawn(logits, 300, top_p=0.71)) == {0, 2, 3}
    assert set(drawn(logits, 300, top_p=0.69)) == {0, 2}
    assert set(drawn(logits, 300, top_p=0.39)) == {0}


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 40.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_top_p_over_a_big_vocabulary_is_as_by_its_definition(spread: float, top_p: float) -> None:
    """Flat ones reach beyond the candidates that are looked at first; steep ones overflow an exponential."""
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * spread
    allowed = nucleus(logits, top_p + 1e-5)
    found = drawn(logits, 400, top_p=top_p)
    assert set(found) <= allowed


def test_top_p_reaches_beyond_the_candidates_that_are_looked_at_first() -> None:
    found = drawn(torch.arange(5000) * -1e-4, 400, top_p=0.9)
    assert max(found) in range(4000, 4500)


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    found = drawn(torch.tensor([0.5, 0.2, 0.3]).log(), 4000)
    assert [found[token] / 4000 for token in range(3)] == pytest.approx([0.5, 0.2, 0.3], abs=0.03)


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.75}])
def test_those_that_are_kept_share_what_is_left(options: dict[str, float]) -> None:
    found = drawn(torch.tensor([0.5, 0.2, 0.3]).log(), 4000, **options)
    assert [found[token] / 4000 for token in range(3)] == pytest.approx([5 / 8, 0, 3 / 8], abs=0.03)


def test_a_low_temperature_draws_the_best_more_often() -> None:
    found = drawn(torch.tensor([0.6, 0.4]).log(), 4000, temperature=0.5)
    assert found[0] / 4000 == pytest.approx(0.36 / 0.52, abs=0.03)


@given(st.integers(0, 2**63 - 1))
@settings(max_examples=20)
def test_the_same_seed_draws_the_same(seed: int) -> None:
    logits = torch.zeros(1000)
    choosers = [TokenChooser(Sampling(do_sample=True, seed=seed), frozenset()) for _ in range(2)]
    first, second = ([chooser.choose(logits, []) for _ in range(5)] for chooser in choosers)
    assert first == second


def test_what_others_draw_changes_nothing() -> None:
    logits = torch.zeros(1000)
    alone, among = (TokenChooser(Sampling(do_sample=True, seed=1), frozenset()) for _ in range(2))
    wanted, found = [alone.choose(logits, []) for _ in range(5)], []
    for _ in range(5):
        torch.rand(3)
        TokenChooser(Sampling(do_sample=True, seed=2), frozenset()).choose(logits, [])
        found.append(among.choose(logits, []))
    assert found == wanted


def test_without_a_seed_no_two_answers_are_the_same() -> None:
    choosers = [TokenChooser(Sampling(do_sample=True), frozenset()) for _ in range(2)]
    first, second = ([chooser.choose(torch.zeros(1000), []) for _ in range(8)] for chooser in choosers)
    assert first != second


@pytest.mark.parametrize(("answer", "wanted"), [([], 0), ([0], 1), ([0, 0, 0], 1), ([0, 1], 0), ([2], 0)])
def test_what_the_answer_has_is_penalized_once(answer: list[int], wanted: int) -> None:
    chooser = TokenChooser(Sampling(repetition_penalty=2.0), frozenset())
    assert chooser.choose(torch.tensor([3.0, 2.0, -1.0]), answer) == wanted


def test_a_negative_logit_is_made_smaller_too() -> None:
    chooser = TokenChooser(Sampling(repetition_penalty=2.0), frozenset())
    assert chooser.choose(torch.tensor([-1.0, -1.5]), [0]) == 1


def test_no_end_is_chosen_before_its_time() -> None:
    chooser, logits = TokenChooser(Sampling(min_new_tokens=2), frozenset({1, 2})), torch.tensor([1.0, 3.0, 2.0])
    assert [chooser.choose(logits, [0] * length) for length in range(4)] == [0, 0, 1, 1]
    assert logits.tolist() == [1.0, 3.0, 2.0]


def test_foreign_tokens_cost_what_is_asked_and_ends_of_answers_nothing() -> None:
    foreign, logits = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 3.0, 2.0])

    def chosen(penalty: float, *ends: int) -> int:
        sampling = Sampling(script="Deva", foreign_script_penalty=penalty)
        return TokenChooser(sampling, frozenset(ends), foreign=foreign).choose(logits, [])

    assert [chosen(0.0), chosen(1.9), chosen(2.1), chosen(2.1, 2)] == [1, 1, 0, 2]
    assert logits.tolist() == [1.0, 3.0, 2.0]
