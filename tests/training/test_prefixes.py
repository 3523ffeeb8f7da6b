"""What many samples begin with, found by their tokens: enough samples, and enough tokens to be worth it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.training.prefixes import shared_beginnings

FUNCTIONS, MORNING, EVENING = [*range(100, 140)], [*range(200, 220)], [*range(300, 320)]


def test_samples_share_the_long_text_that_they_begin_with_and_those_that_go_on_so_more_of_it() -> None:
    said = [[token, 1] for token in range(8)]
    samples = [MORNING + text for text in said] + [FUNCTIONS + MORNING + text for text in said]
    samples += [FUNCTIONS + EVENING + text for text in said] + [FUNCTIONS + text for text in said] + said
    shared = shared_beginnings(samples, least_samples=4)
    assert shared == [(20,)] * 8 + [(40, 60)] * 8 + [(40, 60)] * 8 + [(40,)] * 8 + [()] * 8


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([[*range(7), token] for token in range(50, 60)], "it is too short"),
        ([[*FUNCTIONS, 1], [*FUNCTIONS, 2], *([token, *FUNCTIONS] for token in range(8))], "too few have it"),
        ([], "there are none"),
    ],
)
def test_what_is_not_worth_it_is_not_shared(samples: list[list[int]], why: str) -> None:
    assert set(shared_beginnings(samples, least_samples=4)) <= {()}, why


@given(samples=st.lists(st.lists(st.integers(0, 2), max_size=40), max_size=60), least=st.integers(1, 9))
def test_what_is_shared_is_of_enough_samples(samples: list[list[int]], least: int) -> None:
    samples = [[0] * 16 + sample for sample in samples]
    shared = shared_beginnings(samples, least_samples=least)
    for sample, ends in zip(samples, shared, strict=True):
        assert list(ends) == sorted(set(ends))
        for end in ends:
            assert 8 <= end <= len(sample)
            assert sum(other[:end] == sample[:end] for other in samples) >= max(2, least)
