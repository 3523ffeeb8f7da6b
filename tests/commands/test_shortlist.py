"""Which commands a sentence can mean: few where examples are told apart, all where nobody can tell."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from adapter_service.commands.shortlist import COVERAGE, Shortlist

NAMES = ("timer", "light", "music", "weather")
SIZE = 48


class Mind:
    """Sentences as points around their command's, `spread` apart; "light 7" is one of light's."""

    def __init__(self, spread: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self._centres = {name: torch.randn(SIZE, generator=generator) for name in NAMES}
        self._spread = spread

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([self._point(text) for text in texts])

    def _point(self, text: str) -> torch.Tensor:
        own = torch.Generator().manual_seed(random.Random(text).getrandbits(32))
        return self._centres[text.split(maxsplit=1)[0]] + self._spread * torch.randn(SIZE, generator=own)


def examples(count: int, names: Sequence[str] = NAMES) -> list[tuple[str, str]]:
    return [(f"{name} {number}", name) for name in names for number in range(count)]


def others(count: int, names: Sequence[str] = NAMES) -> list[tuple[str, str]]:
    return [(f"{name} other {number}", name) for name in names for number in range(count)]


def test_where_examples_are_told_apart_only_the_right_command_is_left() -> None:
    shortlist = Shortlist(examples(15), Mind(0.3))
    for (_, name), left_out in zip(others(5), shortlist.left_out([text for text, _ in others(5)]), strict=True):
        assert left_out == set(NAMES) - {name}


@pytest.mark.parametrize("spread", [1.0, 2.0, 4.0])
def test_the_right_command_is_left_as_often_as_is_promised_however_hard_they_are_to_tell_apart(spread: float) -> None:
    wanted = others(250)
    left_out = Shortlist(examples(50), Mind(spread)).left_out([text for text, _ in wanted])
    found = sum(name not in out for (_, name), out in zip(wanted, left_out, strict=True)) / len(wanted)
    assert found >= COVERAGE - 0.04
    assert any(left_out)


def test_the_harder_the_longer() -> None:
    texts = [text for text, _ in others(100)]
    easy, hard = (
        sum(len(NAMES) - len(out) for out in Shortlist(examples(50), Mind(spread)).left_out(texts))
        for spread in (1.0, 4.0)
    )
    assert len(texts) <= easy < hard < len(NAMES) * len(texts)


def test_few_examples_tell_nothing() -> None:
    too_few, enough = (
        Shortlist(examples(count, NAMES[:2]), Mind(0.3)) for count in (9, 10)
    )  # 19 are wanted for 95 in 100
    assert too_few.left_out(["light other 1"]) == [frozenset()]
    assert enough.left_out(["light other 1"]) == [frozenset({"timer"})]


def test_a_command_of_few_examples_is_never_left_out() -> None:
    few, more = ([*examples(20, NAMES[:2]), *examples(count, NAMES[2:3])] for count in (7, 8))
    assert Shortlist(few, Mind(0.3)).left_out(["light other 1"]) == [frozenset({"timer"})]
    assert Shortlist(more, Mind(0.3)).left_out(["light other 1"]) == [frozenset({"timer", "music"})]


def test_of_one_command_there_is_nothing_to_leave_out() -> None:
    assert Shortlist(examples(40, NAMES[:1]), Mind(0.3)).left_out(["timer other 1"]) == [frozenset()]
