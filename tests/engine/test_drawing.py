"""Drawing a token, against a plain and slow way of doing the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapter_service.engine import drawing
from adapter_service.engine.drawing import draw

# Eighths: far enough from each other for float32 to keep them apart.
EIGHTHS = st.integers(-64, 0).map(lambda eighths: eighths / 8)
UNLIKE = st.lists(EIGHTHS, min_size=1, max_size=12, unique=True)
GRID = 64


def tempered(logits: Sequence[float]) -> torch.Tensor:
    return torch.tensor(logits) - max(logits)


def by_definition(logits: Sequence[float], top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """Each kept token's share of the draws."""
    kept = sorted(range(len(logits)), key=lambda token: -logits[token])[: top_k or None]
    shares = dict(zip(kept, torch.tensor([logits[token] for token in kept]).double().softmax(-1).tolist(), strict=True))
    reached, nucleus = 0.0, list[int]()
    for token in kept:
        if nucleus and reached >= top_p:
            break
        nucleus.append(token)
        reached += shares[token]
    kept = [token for token in nucleus if shares[token] >= min_p * shares[nucleus[0]]]
    return {token: shares[token] / sum(shares[other] for other in kept) for token in kept}


def drawn(logits: torch.Tensor, **options: float) -> tuple[Counter[int], dict[int, float]]:
    """How often each token is drawn over evenly spaced numbers, and what share it is said to have."""
    results = [draw(logits, (step + 0.5) / GRID, **options) for step in range(GRID)]  # type: ignore[arg-type]
    return Counter(token for token, _ in results), dict(results)


def check(logits: Sequence[float], options: Mapping[str, float]) -> None:
    top_k, top_p, min_p = int(options["top_k"]), options["top_p"], options["min_p"]
    shares = by_definition(logits, top_k, top_p, min_p)
    # What lies on the very border may fall on either side of it, by rounding.
    assume(shares.keys() == by_definition(logits, top_k, top_p - 1e-5, min_p * (1 - 1e-5)).keys())
    assume(shares.keys() == by_definition(logits, top_k, top_p + 1e-5, min_p * (1 + 1e-5)).keys())
    counts, said = drawn(tempered(logits), **options)
    assert said.keys() <= shares.keys()
    for token, share in shares.items():
        # A stretch of the numbers from 0 to 1 has as many evenly spaced ones as its length says, but for one.
        assert abs(counts[token] - share * GRID) <= 1 + 1e-3
        assert said.get(token, share) == pytest.approx(share, rel=1e-4)


OPTIONS = st.fixed_dictionaries(
    {
        "top_k": st.integers(0, 13),
        "top_p": st.just(1.0) | st.floats(0.0, 1.0),
        "min_p": st.just(0.0) | st.floats(0.0, 1.0),
    }
)


@given(UNLIKE, OPTIONS)
@settings(deadline=None)
def test_every_token_is_drawn_by_its_share_of_what_is_kept(logits: list[float], options: dict[str, float]) -> None:
    check(logits, options)


@given(UNLIKE, OPTIONS)
@settings(deadline=None)
def test_it_is_the_same_when_the_first_candidates_are_not_enough(
    logits: list[float], options: dict[str, float]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_CANDIDATES", 2)
        patch.setattr(drawing, "_BLOCK", 3)
        check(logits, options)


@given(st.lists(st.integers(-3, 0).map(float), min_size=1, max_size=12), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_of_tokens_that_are_alike_no_more_are_kept_than_top_p_needs(logits: list[float], top_p: float) -> None:
    sizes = {len(by_definition(logits, 0, top_p + change, 0.0)) for change in (-1e-5, 0.0, 1e-5)}
    assume(len(sizes) == 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_CANDIDATES", 1)
        counts, _ = drawn(tempered(logits), top_p=top_p)
    kept = sorted((logits[token] for token in by_definition(logits, 0, top_p, 0.0)), reverse=True)
    assert all(logits[token] in kept for token in counts)
    assert len(counts) <= len(kept)


@given(st.floats(0.0, 1.0, exclude_max=True), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_what_has_no_chance_is_never_drawn(uniform: float, top_p: float) -> None:
    logits = torch.full((1600,), -torch.inf)
    logits[[3, 700]] = torch.tensor([0.0, -1.0])
    assert draw(logits, uniform, top_p=top_p)[0] in {3, 700}


def test_the_number_next_to_one_falls_on_the_last_that_has_a_chance() -> None:
    logits = torch.zeros(5000)
    logits[4000:] = -torch.inf
    token, share = draw(logits, 1 - 2**-53)
    assert token == 3999
    assert share == pytest.approx(1 / 4000)


def test_over_a_big_vocabulary_each_is_found_where_its_share_lies() -> None:
    logits = torch.zeros(3000)
    assert [draw(logits, (token + 0.5) / 3000)[0] for token in range(0, 3000, 7)] == list(range(0, 3000, 7))


@pytest.mark.parametrize("options", [{"top_p": 0.95}, {"top_k": 2000, "top_p": 0.999}, {"top_k": 3000}])
def test_the_whole_vocabulary_is_never_sorted(monkeypatch: pytest.MonkeyPatch, options: dict[str, float]) -> None:
    monkeypatch.setattr(torch.Tensor, "sort", None)
    monkeypatch.setattr(torch.Tensor, "argsort", None)
    largest = 0
    topk = torch.Tensor.topk

    def watched(self: torch.Tensor, k: int, *, sorted: bool = True) -> object:  # noqa: A002 - torch's name
        nonlocal largest
        largest = max(largest, k if sorted else 0)
        return topk(self, k, sorted=sorted)

    monkeypatch.setattr(torch.Tensor, "topk", watched)
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    assert draw(logits - logits.max(), 0.7, **options)[1] > 0  # type: ignore[arg-type]
    assert largest <= 1024
