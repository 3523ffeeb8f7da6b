"""Who makes which part of a pass."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adapter_service.decoding import team
from adapter_service.decoding.compiling import compiled
from adapter_service.decoding.tables import Integers
from adapter_service.decoding.vectors import IS_X86

STAGES, PARTS = 300, 40
ONCE = 1000
# (stages, parts): ONCE and by whom it was made; 0 where it was not.
Made = np.ndarray[tuple[int, int], np.dtype[np.int64]]


@compiled  # type: ignore[untyped-decorator]
def make(own: Integers, counts: Integers, made: Made, in_order: Integers, worker: int) -> None:
    """As a pass: stage s has counts[s] parts, which take unequally long."""
    stage, taken = -1, np.int64(-1)
    if not worker:
        team.begin(own)
    while True:
        if worker:
            taken = team.next_for_helper(own, taken)
        else:
            if taken >= 0:
                taken = team.next_for_leader(own, taken)
            if taken < 0 and stage + 1 < len(counts):
                stage += 1
                taken = team.open_stage(own, stage, counts[stage])
        if taken < 0:
            break
        which, part = team.stage_of(taken), team.part_of(taken)
        if which and np.any(made[which - 1, : counts[which - 1]] == 0):
            in_order[which] = 0
        number = 0.0
        for step in range((part * 37 + which * 11) % 400):
            number += np.sqrt(step)
        made[which, part] += ONCE + worker + (0 if number >= 0 else 1)
    if not worker:
        team.close(own)


def counts_of_parts(seed: int) -> Integers:
    counts: Integers = np.random.default_rng(seed).integers(1, PARTS + 1, STAGES)
    return counts


def made_by(members: int, counts: Integers) -> tuple[Made, Integers]:
    """And of each stage, whether all before it was made whenever a part of it began."""
    own, made, in_order = team.new_team(members), np.zeros((len(counts), PARTS), np.int64), np.ones(len(counts), int)
    with ThreadPoolExecutor() as threads:
        helpers = [threads.submit(make, own, counts, made, in_order, worker) for worker in range(1, members)]
        make(own, counts, made, in_order, 0)
        for helper in helpers:
            helper.result()
    return made, in_order


@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_each_part_is_made_once_and_none_before_the_stage_before_it(members: int) -> None:
    for seed in range(20):
        counts = counts_of_parts(seed)
        made, in_order = made_by(members, counts)
        assert np.array_equal(made // ONCE, np.arange(PARTS) < counts[:, None])
        assert made.max() < ONCE + members
        assert in_order.all()


def test_others_are_of_help() -> None:
    """They run at once even on one processor, sooner or later."""
    counts = np.full(STAGES, PARTS)
    for _ in range(200):
        made, _ = made_by(2, counts)
        if set(np.unique(made)) == {ONCE, ONCE + 1}:
            return
    pytest.fail("no part was made by another")


def test_nobody_waits_for_those_who_come_late_and_they_touch_nothing() -> None:
    own, counts = team.new_team(3), counts_of_parts(0)
    made, in_order = np.zeros((STAGES, PARTS), np.int64), np.ones(STAGES, int)
    make(own, counts, made, in_order, 0)  # alone, for the others are not there
    assert np.array_equal(made == ONCE, np.arange(PARTS) < counts[:, None])
    whole = made.copy()
    for worker in (1, 2):
        make(own, counts, made, in_order, worker)
    assert np.array_equal(made, whole)


def test_helpers_go_when_their_leader_is_gone() -> None:
    own = team.new_team(2)
    made, ones = np.zeros((1, PARTS), np.int64), np.ones(1, int)
    helper = threading.Thread(target=make, args=(own, ones, made, ones, 1), daemon=True)
    helper.start()
    helper.join(0.2)
    assert helper.is_alive()
    team.dismiss(own)
    helper.join(60)
    assert not helper.is_alive()


def passes_of(patience: team.Patience, members: int) -> int:
    """How many are made by so many before the next one by all eight."""
    count = 0
    while (found := patience.members(8)) != 8:
        assert found == members
        patience.saw(0.1, found)
        count += 1
    return count


def test_after_waiting_too_long_fewer_go_on_for_a_while_and_longer_each_time() -> None:
    patience, found = team.Patience(), []
    for _ in range(7):
        patience.saw(0.3, 8)
        found.append(passes_of(patience, 6))
    assert found == [8, 16, 32, 64, 128, 128, 128]
    patience.saw(0.2, 8)
    assert passes_of(patience, 0) == 0
    patience.saw(0.3, 8)
    assert passes_of(patience, 6) == 8


def test_fewer_who_wait_too_long_become_fewer_still() -> None:
    patience, most, found = team.Patience(), 8, []
    while most > 1:
        patience.saw(0.6, most)
        most = patience.members(8)
        found.append(most)
    assert found == [6, 4, 3, 2, 1]


def test_two_wait_for_one_another_half_of_the_time_before_one_is_as_fast() -> None:
    patience = team.Patience()
    patience.saw(0.5, 2)
    assert patience.members(2) == 2
    patience.saw(0.51, 2)
    assert patience.members(2) == 1


def test_passes_that_nobody_could_help_with_are_no_trial() -> None:
    patience = team.Patience()
    patience.saw(0.8, 8)
    assert [patience.members(1) for _ in range(100)] == [1] * 100
    assert passes_of(patience, 6) == 8


@pytest.mark.skipif(not IS_X86, reason="the processor does not tell its cycles")
def test_a_leader_knows_how_long_it_has_waited() -> None:
    """For one that took a part and then does something else for a while."""
    own, counts, made, in_order = team.new_team(2), np.array([1]), np.zeros((1, PARTS), np.int64), np.ones(1, int)
    make(own, counts, made, in_order, 0)
    assert team.part_waited(own) == 0

    own, taken = team.new_team(2), threading.Event()

    def take_and_sleep() -> None:
        part = team.next_for_helper(own, -1)
        taken.set()
        time.sleep(0.5)
        team.next_for_helper(own, part)

    helper = threading.Thread(target=take_and_sleep)
    helper.start()
    lead(own, taken)
    helper.join(60)
    assert 0.5 < team.part_waited(own) <= 1


def lead(own: Integers, taken: threading.Event) -> None:
    """A stage of two parts, of which it makes one when the other is taken."""
    team.begin(own)
    part = team.open_stage(own, 0, 2)
    assert taken.wait(60)
    assert team.next_for_leader(own, part) < 0
    team.close(own)
