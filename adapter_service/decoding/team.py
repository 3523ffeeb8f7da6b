"""How threads make a pass together: its stages one after the other, and parts of a stage by whoever is free.

    leader     opens a stage, takes parts as all do, and opens the next stage when every part is finished
    helpers    take parts of the open stage, until nothing more comes

What is open is one number, the ticket, so that a stage and a part of it are taken at once:

    | stage, 23 bits | how many parts it has, 20 bits | the next part, 20 bits |      negative: nothing more comes

Whoever adds 1 to it has the part that it said before. So nobody waits for a helper that comes late or is kept from
running, unless it has taken a part; and one that comes when all is over finds that, and has touched nothing.
"""

from __future__ import annotations

import numpy as np
from numba import int64

from adapter_service.decoding.atomics import NUMBER, count_up, cycles, load, store, wait_a_little
from adapter_service.decoding.compiling import compiled
from adapter_service.decoding.tables import Integers

# Places in a team's numbers; what several threads write lies in cache lines that nothing else is in. The leader keeps
# how many of the processor's cycles it has waited for others, and when it began, then how long it took.
_MEMBERS, _WAITED, _CYCLES, _TICKET, _FINISHED, _SIZE = 0, 1, 2, 16, 32, 48
_PART_BITS = 20
_LOWER = (1 << _PART_BITS) - 1
_NONE, _OVER = int64(-1), -(1 << 62)
# The most parts that a stage may have: the ticket counts on by 1 for each member that finds none left.
MOST_PARTS = 1 << (_PART_BITS - 1)
# Passes that are made by fewer after one that waited: the first number, and twice as many, up to the second, each time
# that the next one by all waits too.
_FEW_PASSES, _MOST_PASSES = 8, 128


class Patience:
    """How many are worth waiting for.

    Where other work keeps a processor busy, whoever runs there may stop in the middle of a part, and the pass with it.
    After one that waited so long that fewer would have been as fast, the next few are made by fewer.
    """

    def __init__(self) -> None:
        self._fewer, self._left, self._next = 1, 0, _FEW_PASSES
        self._is_trial = False

    def members(self, most: int) -> int:
        """How many make the next pass, of as many as there could be."""
        if most <= self._fewer:
            self._is_trial = False
            return most
        self._is_trial = self._left == 0
        if self._is_trial:
            return most
        self._left -= 1
        return self._fewer

    def saw(self, waited: float, members: int) -> None:
        """In what part of that pass, by so many, the leader waited."""
        fewer = max(1, members * 3 // 4)
        if waited > 1 - fewer / members:
            self._fewer, self._left, self._next = fewer, self._next, min(2 * self._next, _MOST_PASSES)
        elif self._is_trial:
            self._next = _FEW_PASSES


def new_team(members: int) -> Integers:
    """The numbers of one pass and of those who make it."""
    team = np.zeros(_SIZE, np.int64)
    team[_MEMBERS] = members
    return team


def dismiss(team: Integers) -> None:
    """Let helpers go, whatever has become of their leader."""
    team[_TICKET] = _OVER


def part_waited(team: Integers) -> float:
    """The part of a pass in which its leader waited; 0 where the processor does not tell its cycles."""
    return float(team[_WAITED] / max(1, team[_CYCLES]))


@compiled
def begin(team: Integers) -> None:
    """For the leader, before the first stage."""
    team[_CYCLES] = cycles()


@compiled
def close(team: Integers) -> None:
    """For the leader, after the last stage: helpers go, those that have not come yet, too."""
    team[_CYCLES] = cycles() - team[_CYCLES]
    store(team.ctypes.data + _TICKET * NUMBER, int64(_OVER))


@compiled
def members_of(team: Integers) -> int:
    count: int = team[_MEMBERS]
    return count


@compiled
def stage_of(taken: int) -> int:
    stage: int = taken >> int64(2 * _PART_BITS)
    return stage


@compiled
def parts_of(taken: int) -> int:
    parts: int = (taken >> int64(_PART_BITS)) & int64(_LOWER)
    return parts


@compiled
def part_of(taken: int) -> int:
    part: int = taken & int64(_LOWER)
    return part


@compiled
def open_stage(team: Integers, stage: int, parts: int) -> int:
    """For the leader, which has its first part with that; a stage of one part is not shown to helpers."""
    taken: int = (int64(stage) << int64(2 * _PART_BITS)) | (int64(parts) << int64(_PART_BITS))
    if parts > 1:
        numbers = team.ctypes.data
        store(numbers + _FINISHED * NUMBER, int64(0))
        store(numbers + _TICKET * NUMBER, taken + 1)
    return taken


@compiled
def next_for_leader(team: Integers, taken: int) -> int:
    """Another part of the stage, when that of before is finished; negative when all are, whoever has made them."""
    parts, numbers = parts_of(taken), team.ctypes.data
    another: int = _NONE
    if parts > 1:
        count_up(numbers + _FINISHED * NUMBER)
        another = count_up(numbers + _TICKET * NUMBER)
        if part_of(another) >= parts:
            another, since = _NONE, cycles()
            while load(numbers + _FINISHED * NUMBER) < parts:
                wait_a_little()
            team[_WAITED] += cycles() - since
    return another


@compiled
def next_for_helper(team: Integers, taken: int) -> int:
    """A part of whatever stage is open, when that of before is finished, if there was one; negative when all is over.

    It waits for one, and keeps its processor busy meanwhile: a stage takes some millionths of a second.
    """
    numbers = team.ctypes.data
    if taken >= 0:
        count_up(numbers + _FINISHED * NUMBER)
    another: int = load(numbers + _TICKET * NUMBER)
    while another >= 0:
        if part_of(another) < parts_of(another):
            another = count_up(numbers + _TICKET * NUMBER)
            if part_of(another) < parts_of(another):
                break
        wait_a_little()
        another = load(numbers + _TICKET * NUMBER)
    return another
