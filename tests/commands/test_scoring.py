"""Held-out sentences and their answers: what counts as right, and when that is enough."""

from __future__ import annotations

from itertools import product
from math import comb
from typing import Any

import pytest

from adapter_service.commands.curriculum import HeldOut
from adapter_service.commands.scoring import MANY, Outcome, Routed, Score, findings, mcnemar, score
from adapter_service.settings import CommandSettings
from tests.commands.making import command, read

TIMER = command(
    "set_timer",
    ("ten minutes", {"minutes": 10}),
    parameters=[
        {"name": "minutes", "type": "int"},
        {"name": "label", "type": "string", "required": False},
    ],
)
LIGHT = command("set_light", "light")
RULES = CommandSettings()


def held(name: str | None, *, is_negative: bool = False, **arguments: Any) -> HeldOut:
    return HeldOut((), "a sentence", name, arguments, is_negative, name or "set_timer")


def outcome_of(wanted: HeldOut, answer: Routed) -> Outcome:
    (outcome,) = score(read(TIMER, LIGHT), [wanted], [answer]).outcomes
    return outcome


def outcomes(right: int, wrong: int) -> list[Outcome]:
    good = Outcome("set_timer", is_negative=False, is_valid=True, tool=True, parameters=True, exact=True)
    bad = Outcome("set_timer", is_negative=False, is_valid=True, tool=False, parameters=False, exact=False)
    return [good] * right + [bad] * wrong


@pytest.mark.parametrize(
    ("answer", "tool", "parameters", "exact"),
    [
        (Routed("set_timer", {"minutes": 10}), True, True, True),
        (Routed("set_timer", {"minutes": 10.0}), True, True, False),
        (Routed("set_timer", {"minutes": 9}), True, True, False),
        (Routed("set_timer", {"minutes": 10, "label": "tea"}), True, True, False),
        (Routed("set_timer", {"label": "tea"}), True, False, False),
        (Routed("set_timer", {"minutes": None}), True, False, False),
        (Routed("set_light", {"minutes": 10}), False, False, False),
        (Routed(), False, False, False),
        (Routed(is_valid=False), False, False, False),
    ],
)
def test_a_positive_wants_the_function_then_its_parameters_then_the_very_arguments(
    answer: Routed, tool: bool, parameters: bool, exact: bool
) -> None:
    found = outcome_of(held("set_timer", minutes=10), answer)
    assert (found.tool, found.parameters, found.exact) == (tool, parameters, exact)


def test_a_negative_is_right_where_it_is_refused_or_the_other_commands() -> None:
    assert outcome_of(held(None, is_negative=True), Routed()).tool
    assert not outcome_of(held(None, is_negative=True), Routed("set_timer", {"minutes": 1})).tool
    assert not outcome_of(held(None, is_negative=True), Routed(is_valid=False)).tool
    assert outcome_of(held("set_light", is_negative=True), Routed("set_light", {})).tool


def test_shares_are_of_positives_and_of_negatives_apart_and_there_is_a_row_for_each_command() -> None:
    wanted = [held("set_timer", minutes=1), held("set_light"), held(None, is_negative=True)]
    answers = [Routed("set_timer", {"minutes": 1}), Routed(), Routed(is_valid=False)]
    metrics = score(read(TIMER, LIGHT), wanted, answers).metrics()
    assert (metrics["sentences"], metrics["negatives"]) == (2, 1)
    assert (metrics["tool_accuracy"], metrics["refusal_accuracy"], metrics["valid_share"]) == (0.5, 0.0, 2 / 3)
    assert metrics["per_command"]["set_timer"]["tool_accuracy"] == 1.0
    assert metrics["per_command"]["set_light"]["tool_accuracy"] == 0.0


@pytest.mark.parametrize(("right", "wrong", "passes"), [(80, 20, True), (79, 21, False), (1, 0, True)])
def test_four_fifths_are_needed_by_default(right: int, wrong: int, passes: bool) -> None:
    found = findings(Score(tuple(outcomes(right, wrong))), None, RULES)
    assert [one.passed for one in found] == [passes, passes]


def test_without_a_held_out_sentence_nothing_passes() -> None:
    assert not any(one.passed for one in findings(Score(()), None, RULES))


def test_from_a_hundred_sentences_on_one_point_may_be_lost() -> None:
    live = Score(tuple(outcomes(MANY, 0)))
    for lost, passes in ((0, True), (1, True), (2, False)):
        candidate = Score(tuple(outcomes(MANY - lost, lost)))
        assert findings(candidate, live, RULES)[-1].passed is passes


def test_below_a_hundred_only_what_is_no_chance_counts() -> None:
    live = Score(tuple(outcomes(50, 0)))
    # 4 of 4 changed answers are wrong by chance in 1 of 16 cases, 5 of 5 in 1 of 32.
    for lost, passes in ((4, True), (5, False)):
        assert findings(Score(tuple(outcomes(50 - lost, lost))), live, RULES)[-1].passed is passes


def test_mcnemars_test_is_the_binomial_tail_counted_out() -> None:
    for worse, better in product(range(7), repeat=2):
        changed = worse + better
        counted = sum(comb(changed, k) for k in range(changed + 1) if k >= worse) / 2**changed
        assert mcnemar(worse, better) == pytest.approx(counted)
