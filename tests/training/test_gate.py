"""The gate: every rule each way, with the numbers in its sentences."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.training.gate import Decision, Measurements, bootstrap_bound, decide


@dataclass(frozen=True)
class Rules:
    min_holdout_samples: int = 20
    min_loss_gain: float = 0.0
    confidence: float = 0.95
    max_chrf_loss: float = 1.0


RULES = Rules()


def measured(loss: float, samples: int = 100, *, noise: float = 0.1, seed: int = 1) -> Measurements:
    generator = random.Random(seed)
    counts = [generator.randint(3, 30) for _ in range(samples)]
    return Measurements([count * (loss + generator.gauss(0, noise)) for count in counts], counts)


BASE = measured(3.4)
BETTER = measured(2.4)


def test_a_clearly_better_candidate_passes_with_its_numbers() -> None:
    decision = decide(BETTER, BASE, RULES)
    assert decision.passed
    assert decision.reasons[1].startswith("Loss per token on 100 held-out samples fell from 3.40")
    assert "95 % sure of a gain of at least 1.000" in decision.reasons[1]
    assert decision.metrics["loss_gain"] == pytest.approx(1.0)


@pytest.mark.parametrize("candidate", [BASE, measured(3.6)], ids=["the same", "worse"])
def test_no_better_than_the_incumbent_is_rejected(candidate: Measurements) -> None:
    decision = decide(candidate, BASE, RULES)
    assert decision.verdict == "rejected"
    assert "more than 0.000 is needed" in decision.reasons[-1]


def test_a_gain_that_chance_explains_is_rejected() -> None:
    better_on_one = replace(BASE, loss_sums=[BASE.loss_sums[0] - 50, *BASE.loss_sums[1:]])
    decision = decide(better_on_one, BASE, RULES)
    assert decision.metrics["loss_gain"] > 0
    assert decision.verdict == "rejected"


def test_a_gain_below_the_required_one_is_rejected() -> None:
    assert decide(BETTER, BASE, Rules(min_loss_gain=0.9)).passed
    assert decide(BETTER, BASE, Rules(min_loss_gain=1.1)).verdict == "rejected"


def test_long_samples_weigh_by_their_tokens() -> None:
    assert Measurements([10.0, 300.0], [10, 100]).loss_per_token == pytest.approx(310 / 110)


def test_too_few_samples_are_no_evidence_and_do_not_pass() -> None:
    decision = decide(measured(1.0, 8), measured(3.0, 8), RULES)
    assert (decision.verdict, decision.passed) == ("insufficient_evidence", False)
    assert "8 samples were held out and 20 are needed" in decision.reasons[-1]
    assert "raise gate.holdout_fraction" in decision.reasons[-1]


def test_an_empty_holdout_is_no_evidence() -> None:
    assert decide(Measurements([], []), Measurements([], []), RULES).verdict == "insufficient_evidence"


@pytest.mark.parametrize("samples", [8, 100])
def test_weights_that_are_not_finite_are_rejected_whatever_else_was_found(samples: int) -> None:
    candidate = replace(measured(1.0, samples), weights_finite=False)
    decision = decide(candidate, measured(3.0, samples), RULES)
    assert decision.verdict == "rejected"
    assert decision.reasons == ("Some weights are NaN or infinite; train again with a lower learning rate.",)


def test_a_loss_that_is_not_finite_is_rejected_and_counted() -> None:
    decision = decide(replace(BETTER, loss_sums=[math.nan, math.inf, *BETTER.loss_sums[2:]]), BASE, RULES)
    assert decision.verdict == "rejected"
    assert "on 2 of 100 held-out samples" in decision.reasons[0]


def test_an_incumbent_without_a_finite_loss_is_no_evidence() -> None:
    broken = replace(BASE, loss_sums=[math.nan, *BASE.loss_sums[1:]])
    assert decide(BETTER, broken, RULES).verdict == "insufficient_evidence"


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0009, True), (1.002, False), (math.nan, False)])
def test_saved_bytes_must_have_the_loss_of_the_weights_in_memory(factor: float, *, passed: bool) -> None:
    candidate = replace(BETTER, reloaded_loss=BETTER.loss_per_token * factor)
    decision = decide(candidate, BASE, RULES)
    assert decision.passed is passed
    assert ("the files are not what was trained" in decision.reasons[1]) is not passed


@pytest.mark.parametrize(("chrf", "passed"), [(30.0, True), (24.1, True), (23.9, False)])
def test_chrf_may_fall_by_as_much_as_the_rules_allow(chrf: float, *, passed: bool) -> None:
    decision = decide(replace(BETTER, chrf=[chrf] * 10), replace(BASE, chrf=[25.0] * 10), RULES)
    assert decision.passed is passed
    assert f"chrF on 10 generated texts went from 25.0 to {chrf}" in decision.reasons[-1]


def test_without_targets_there_is_no_sentence_about_chrf() -> None:
    assert not any("chrF" in reason for reason in decide(BETTER, BASE, RULES).reasons)


def test_different_samples_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="different samples"):
        decide(measured(2.0, 30), measured(2.0, 31), RULES)


def test_the_same_measurements_give_the_same_decision() -> None:
    assert decide(BETTER, BASE, RULES, seed=3) == decide(BETTER, BASE, RULES, seed=3)


def test_a_decision_as_json_has_no_nan() -> None:
    decision = decide(replace(BETTER, reloaded_loss=math.nan), BASE, RULES)
    assert decision.as_dict()["metrics"]["reloaded_loss"] is None
    assert Decision("passed", ("Fine.",)).as_dict()["passed"] is True


@given(shift=st.floats(-2, 2), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_the_bound_of_a_constant_difference_is_that_difference(shift: float, confidence: float) -> None:
    counts = [4, 9, 2, 7]
    bound = bootstrap_bound([count * shift for count in counts], counts, confidence, seed=0)
    assert bound == pytest.approx(shift)


def test_more_confidence_asks_for_more() -> None:
    differences = [c - b for c, b in zip(measured(3.3, seed=2).loss_sums, measured(3.4, seed=2).loss_sums, strict=True)]
    noisy = [d + random.Random(i).gauss(0, 5) for i, d in enumerate(differences)]
    bounds = [bootstrap_bound(noisy, BASE.token_counts, c, seed=0) for c in (0.5, 0.9, 0.99)]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[2]
