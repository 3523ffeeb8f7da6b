"""First come, first served, with bounded overtaking; two laws over whatever happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.engine.waiting import MAX_OVERTAKEN, WaitingLine


def line_of(*items: str) -> WaitingLine[str]:
    line = WaitingLine[str]()
    for item in items:
        line.add(item)
    return line


def anybody(item: str) -> bool:
    return True


def test_first_come_first_served() -> None:
    line = line_of("a", "b")
    assert [line.next(anybody) for _ in range(3)] == ["a", "b", None]


def test_one_that_is_not_ready_lets_others_go_first() -> None:
    line = line_of("slow", "b", "c")
    assert line.next(lambda item: item != "slow") == "b"
    assert line.next(anybody) == "slow"


def test_after_so_many_the_line_stands_until_it_is_served() -> None:
    line = line_of("slow", *(str(number) for number in range(MAX_OVERTAKEN + 1)))
    served = [line.next(lambda item: item != "slow") for _ in range(MAX_OVERTAKEN + 1)]
    assert served == [*(str(number) for number in range(MAX_OVERTAKEN)), None]
    assert [line.next(anybody) for _ in range(2)] == ["slow", str(MAX_OVERTAKEN)]


def test_those_who_left_are_given_back_in_order() -> None:
    line = line_of("a", "b", "c")
    assert line.remove(lambda item: item != "b") == ["a", "c"]
    assert list(line) == ["b"]


def test_one_that_waits_behind_one_that_left_is_served() -> None:
    line = line_of("slow", *(str(number) for number in range(MAX_OVERTAKEN + 1)))
    while line.next(lambda item: item != "slow"):
        pass
    line.remove(lambda item: item == "slow")
    assert line.next(anybody) == str(MAX_OVERTAKEN)


def test_the_line_can_be_looked_at_while_it_moves() -> None:
    line = line_of("a", "b")
    assert [(item, line.next(anybody)) for item in line] == [("a", "a"), ("b", "b")]


# In each turn one may come, and some are not ready.
TURNS = st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 60))), max_size=120)


def played(turns: list[tuple[bool, set[int]]]) -> tuple[WaitingLine[int], list[int]]:
    """The line after these turns and those who were served, each named by the turn in which it came."""
    line, served = WaitingLine[int](), list[int]()
    for number, (comes, not_ready) in enumerate(turns):
        if comes:
            line.add(number)
        oldest = next(iter(line), None)
        item = line.next(lambda item: item not in not_ready)  # noqa: B023 - called at once
        if item is not None:
            served.append(item)
            assert item not in not_ready
        if oldest is not None and oldest not in not_ready:
            assert item == oldest
    return line, served


@settings(deadline=None)
@given(turns=TURNS)
def test_nobody_is_overtaken_more_often_than_that(turns: list[tuple[bool, set[int]]]) -> None:
    line, served = played(turns)
    for item in {*line, *served}:
        before = served[: served.index(item)] if item in served else served
        assert sum(other > item for other in before) <= MAX_OVERTAKEN


@settings(deadline=None)
@given(turns=TURNS)
def test_once_all_are_ready_the_line_empties_in_order(turns: list[tuple[bool, set[int]]]) -> None:
    line, _ = played(turns)
    waiting = list(line)
    assert [line.next(lambda _: True) for _ in waiting] == waiting == sorted(waiting)
