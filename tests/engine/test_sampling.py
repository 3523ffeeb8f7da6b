"""Laws of choosing a token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapter_service.engine.generations import TokenTrail
from adapter_service.engine.requests import Sampling
from adapter_service.engine.sampling import TokenChooser
from adapter_service.errors import InvalidParameterError, NonFiniteLogitsError
from tests.engine.test_drawing import by_definition

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
@settings(deadline=None)
def test_greedy_takes_the_best(logits: list[float]) -> None:
    token = TokenChooser(Sampling(), frozenset()).choose(torch.tensor(logits), [])
    assert torch.tensor(logits)[token] == max(torch.tensor(logits))


@given(LOGITS)
@settings(deadline=None)
def test_temperature_zero_is_greedy(logits: list[float]) -> None:
    assert set(drawn(logits, 3, temperature=0.0)) == {int(torch.tensor(logits).argmax())}


@given(LOGITS, st.sampled_from([5e-324, 1e-40, 1e-12, 1e-3]), st.sampled_from([0.5, 1.0]))
@settings(deadline=None)
def test_no_temperature_is_too_low_to_draw_a_best_token(logits: list[float], temperature: float, top_p: float) -> None:
    best = max(logits)
    assert all(logits[token] >= best - 0.5 for token in drawn(logits, 3, temperature=temperature, top_p=top_p))


@given(LOGITS, st.integers(1, 12))
@settings(deadline=None)
def test_nothing_outside_the_best_k_is_drawn(logits: list[float], top_k: int) -> None:
    worst_kept = sorted(logits, reverse=True)[:top_k][-1]
    # Logits are compared as float32 below the best one, where hardly different ones are alike.
    assert all(logits[token] >= worst_kept - 1e-5 for token in drawn(logits, top_k=top_k))


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=10, unique=True), st.floats(0.05, 0.99))
@settings(deadline=None)
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
@settings(max_examples=20, deadline=None)
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


class Only:
    """A grammar that allows some tokens everywhere and the ends never."""

    lark = ""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens
        self.taken: list[int] = []

    def begin(self, ends: frozenset[int]) -> Only:
        return self

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        masked = torch.full_like(logits, -torch.inf)
        masked[list(self.tokens)] = logits[list(self.tokens)]
        return masked

    def take(self, token: int) -> None:
        self.taken.append(token)


SEVERAL = st.lists(st.integers(-40, 40).map(lambda eighths: eighths / 8), min_size=8, max_size=8, unique=True)


@st.composite
def everything(draw: st.DrawFn) -> Sampling:
    """All that changes what a token is drawn from, at once; halves and eighths, so that float32 is exact."""
    allowed = draw(st.none() | st.sets(st.integers(0, 7), min_size=1))
    return Sampling(
        do_sample=True,
        seed=draw(st.integers(0, 1000)),
        temperature=draw(st.sampled_from([0.5, 1.0, 2.0])),
        top_k=draw(st.integers(0, 9)),
        top_p=draw(st.just(1.0) | st.floats(0.1, 0.99)),
        min_p=draw(st.just(0.0) | st.floats(0.01, 0.9)),
        repetition_penalty=draw(st.sampled_from([0.5, 1.0, 2.0])),
        presence_penalty=draw(st.sampled_from([-1.0, 0.0, 0.5])),
        frequency_penalty=draw(st.sampled_from([-0.25, 0.0, 1.5])),
        logit_bias=draw(st.dictionaries(st.integers(0, 7), st.sampled_from([-100.0, -1.0, 2.5]), max_size=3)),
        constraint=Only(*allowed) if allowed else None,
    )


def edited(logits: Sequence[float], answer: Sequence[int], sampling: Sampling) -> dict[int, float]:
    """What is left of the logits after mask, penalties, bias and temperature, token by token."""
    left = {}
    for token, value in enumerate(logits):
        if isinstance(sampling.constraint, Only) and token not in sampling.constraint.tokens:
            continue
        if times := answer.count(token):
            value *= sampling.repetition_penalty if value < 0 else 1 / sampling.repetition_penalty
            value -= sampling.presence_penalty + sampling.frequency_penalty * times
        left[token] = (value + sampling.logit_bias.get(token, 0.0)) / sampling.temperature
    return left


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(logits=SEVERAL, answer=st.lists(st.integers(0, 7), max_size=6), sampling=everything())
@settings(deadline=None)
def test_log_probabilities_are_of_what_was_drawn_from_with_everything_at_once(
    dtype: torch.dtype, logits: list[float], answer: list[int], sampling: Sampling
) -> None:
    left = edited(logits, answer, sampling)
    tokens, values = list(left), list(left.values())
    assume(len(set(values)) == len(values))
    shares = by_definition(values, sampling.top_k, sampling.top_p, sampling.min_p)
    for change in (1 - 1e-5, 1 + 1e-5):  # what lies on the very border may fall on either side of it, by rounding
        near = by_definition(values, sampling.top_k, sampling.top_p * change, sampling.min_p * change)
        assume(near.keys() == shares.keys())
    trail, given_logits = TokenTrail(), torch.tensor(logits, dtype=dtype)
    token = TokenChooser(sampling, frozenset(), trail).choose(given_logits, answer)
    assert given_logits.tolist() == logits
    assert tokens.index(token) in shares
    assert trail.sampling_logprobs == pytest.approx([math.log(shares[tokens.index(token)])], abs=1e-4)
    assert trail.logprobs == pytest.approx([float(given_logits.double().log_softmax(-1)[token])], abs=1e-5)
    if isinstance(sampling.constraint, Only):
        assert sampling.constraint.taken == [token]


def test_a_longer_answer_is_counted_on() -> None:
    chooser = TokenChooser(Sampling(frequency_penalty=1.0), frozenset())
    answer: list[int] = []
    for _ in range(6):
        answer.append(chooser.choose(torch.tensor([2.25, 1.5, 0.0]), answer))
    assert answer == [0, 1, 0, 1, 0, 2]


@pytest.mark.parametrize(("bias", "wanted"), [({}, 0), ({1: 3.5}, 1), ({0: -100.0}, 1), ({2: 100.0}, 2)])
def test_a_bias_is_added_to_its_token(bias: dict[int, float], wanted: int) -> None:
    assert TokenChooser(Sampling(logit_bias=bias), frozenset()).choose(torch.tensor([3.0, 0.0, -1.0]), []) == wanted


@pytest.mark.parametrize("token", [3, -1])
def test_a_bias_for_a_token_that_is_not_there_is_refused(token: int) -> None:
    chooser = TokenChooser(Sampling(logit_bias={0: 1.0, token: 1.0}), frozenset())
    with pytest.raises(InvalidParameterError, match=f"for token {token}, and the base has 3") as error:
        chooser.choose(torch.zeros(3), [])
    assert error.value.parameter == "logit_bias"


def test_the_likeliest_tokens_are_told_with_the_policys_log_probabilities() -> None:
    trail, logits = TokenTrail(), torch.tensor([1.0, 3.0, 2.0, -torch.inf])
    sampling = Sampling(top_logprobs=2, logit_bias={0: 10.0}, return_tokens=True)
    assert TokenChooser(sampling, frozenset(), trail).choose(logits, []) == 0
    wanted = logits.log_softmax(-1)
    (((first, of_first), (second, of_second)),) = trail.top
    assert (first, second) == (1, 2)
    assert [of_first, of_second] == pytest.approx(wanted[[1, 2]].tolist())
    assert trail.logprobs == pytest.approx([float(wanted[0])])


def test_no_more_of_the_likeliest_are_told_than_there_are() -> None:
    trail = TokenTrail()
    TokenChooser(Sampling(top_logprobs=20), frozenset(), trail).choose(torch.zeros(3), [])
    assert [len(top) for top in trail.top] == [3]


def test_each_token_takes_one_random_number_however_many_are_kept() -> None:
    flat, steep = torch.zeros(1000), torch.full((1000,), -torch.inf)
    steep[5] = 0.0
    first, second = (TokenChooser(Sampling(do_sample=True, seed=3, top_p=0.9), frozenset()) for _ in range(2))
    first.choose(flat, [])
    assert second.choose(steep, []) == 5
    assert first.choose(flat, []) == second.choose(flat, [])


BROKEN = [[math.nan, 1.0, 0.0], [-math.inf] * 3, [0.0, math.inf, 0.0]]


@pytest.mark.parametrize("logits", BROKEN, ids=str)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(do_sample=True, top_p=0.9),
        Sampling(repetition_penalty=1.5, logit_bias={1: 1.0}),
        Sampling(constraint=Only(2)),
    ],
    ids=["greedy", "sampled", "penalized", "constrained"],
)
def test_logits_that_are_no_numbers_are_an_error_of_their_own(logits: list[float], sampling: Sampling) -> None:
    for trail in (None, TokenTrail()):
        with pytest.raises(NonFiniteLogitsError, match="token 2 of the answer"):
            TokenChooser(sampling, frozenset({0}), trail).choose(torch.tensor(logits), [1])


def test_a_grammar_that_allows_nothing_but_an_end_has_its_way_before_the_least_length() -> None:
    sampling = Sampling(min_new_tokens=5, constraint=Only(2))
    assert TokenChooser(sampling, frozenset({2}), None).choose(torch.tensor([3.0, 2.0, 1.0]), []) == 2
    sampling = Sampling(min_new_tokens=5, constraint=Only(1, 2))
    assert TokenChooser(sampling, frozenset({1}), None).choose(torch.tensor([3.0, 2.0, 1.0]), []) == 2
