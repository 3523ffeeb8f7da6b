"""Training gets its share under load, all of the rest, and neither side saves up for later."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.engine.share import KEPT_SECONDS, RECENT_SECONDS, TrainingShare

LAYER, STEP = 0.045, 0.012  # of a base of 135 million parameters on one core
SHARES = st.floats(0.01, 0.9)
SECONDS = st.floats(0.001, 1.0)


def turn(share: TrainingShare, step: float, layer: float) -> int:
    """One turn of an engine that always has both to do; how many slices training got."""
    share.served(step)
    for slices in count():
        if not share.training_is_due():
            return slices
        share.trained(layer)
    raise AssertionError


def part(share: TrainingShare) -> float:
    return share.trained_seconds / (share.trained_seconds + share.served_seconds)


@pytest.mark.parametrize("wanted", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("step", "layer"), [(STEP, LAYER), (0.06, 0.005), (2.0, 0.045), (0.01, 1.0)])
def test_under_load_training_gets_its_share_however_unequal_the_slices(
    wanted: float, step: float, layer: float
) -> None:
    share = TrainingShare(wanted)
    while share.served_seconds < 50 * (step + layer) / (1 - wanted) / wanted:
        turn(share, step, layer)
    assert part(share) == pytest.approx(wanted, rel=0.03)


@settings(deadline=None)
@given(wanted=SHARES, turns=st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=60))
def test_under_load_nobody_is_ever_further_behind_than_one_slice_or_turn(
    wanted: float, turns: list[tuple[float, float]]
) -> None:
    share = TrainingShare(wanted)
    longest_step, longest_layer = (max(seconds) for seconds in zip(*turns, strict=True))
    for step, layer in turns:
        turn(share, step, layer)
        owed = wanted * share.served_seconds - (1 - wanted) * share.trained_seconds
        assert -(1 - wanted) * longest_layer - 1e-9 <= owed <= wanted * longest_step + 1e-9


def test_a_share_of_nothing_is_idle_time_alone() -> None:
    share = TrainingShare(0.0)
    assert [turn(share, STEP, LAYER) for _ in range(1000)] == [0] * 1000
    share.trained(LAYER)
    assert share.trained_seconds == LAYER


@settings(deadline=None)
@given(wanted=SHARES, idle=st.lists(SECONDS, min_size=1))
def test_a_night_of_training_alone_costs_training_no_more_than_its_last_slice(wanted: float, idle: list[float]) -> None:
    rested, busy = TrainingShare(wanted), TrainingShare(wanted)
    for seconds in idle:
        rested.trained(seconds)
    busy.trained(idle[-1])
    assert not rested.training_is_due()
    assert [turn(rested, STEP, LAYER) for _ in range(50)] == [turn(busy, STEP, LAYER) for _ in range(50)]


def test_a_layer_that_took_too_long_is_given_back_to_serving() -> None:
    share = TrainingShare(0.2)
    turn(share, STEP, 1.0)
    assert sum(turn(share, STEP, LAYER) for _ in range(320)) == 0  # four seconds, as one is a fifth of five
    assert sum(turn(share, STEP, LAYER) for _ in range(40)) > 0


def after_a_night_of_serving() -> TrainingShare:
    share = TrainingShare(0.2)
    for _ in range(100_000):
        share.served(STEP)
    return share


def test_what_was_served_before_training_began_earns_it_nothing() -> None:
    share = after_a_night_of_serving()
    share.training_begins()
    assert max(turn(share, STEP, LAYER) for _ in range(200)) == 1
    assert part(share) < 0.01


def test_training_that_had_nothing_to_do_has_earned_no_more_than_a_stated_bound() -> None:
    share = after_a_night_of_serving()
    assert turn(share, STEP, LAYER) * LAYER <= KEPT_SECONDS * 0.2 / 0.8 + LAYER


def test_training_that_begins_anew_does_not_lose_what_it_owes() -> None:
    share = TrainingShare(0.2)
    share.trained(1.0)
    share.training_begins()
    share.served(3.9)
    assert not share.training_is_due()


def test_a_turn_may_be_told_in_parts() -> None:
    whole, parts = TrainingShare(0.2), TrainingShare(0.2)
    for share in (whole, parts):
        share.trained(0.005)
    parts.served(0.3)
    assert turn(parts, STEP, 0.005) == turn(whole, 0.3 + STEP, 0.005) == 15


def test_what_is_told_of_the_recent_past_follows_it() -> None:
    share = TrainingShare(0.2)
    assert share.recent == 0.0
    for _ in range(100):
        share.trained(LAYER)
    assert share.recent == pytest.approx(1.0)
    for _ in range(round(3 * RECENT_SECONDS / STEP)):
        share.served(STEP)
    assert share.recent < 0.05


@pytest.mark.parametrize("wrong", [-0.1, 1.0, float("nan")])
def test_a_share_is_less_than_all(wrong: float) -> None:
    with pytest.raises(ValueError, match="from 0 to less than 1"):
        TrainingShare(wrong)
