"""What a node's sentences are as samples: each negative has a prompt of its own, and all are the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from adapter_service.commands.prompting import NONE_FITS
from adapter_service.commands.retrieval import Retriever
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import LEAST_NEGATIVES, MOST_NEGATIVES, Sentence, dataset_of
from adapter_service.commands.training_samples import samples_of
from adapter_service.samples import Sample
from tests.commands.making import numbered, read

BERLIN = ZoneInfo("Europe/Berlin")


def node(count: int) -> tuple[Command, ...]:
    """Each command names the next as an antipattern."""
    return read(*(numbered(f"c{n}", 12, antipatterns=[_anti(f"c{(n + 1) % count}")]) for n in range(count)))


def _anti(name: str) -> dict[str, Any]:
    return {"command_name": name, "description": "It sounds alike"}


def sampled(sentences: Sequence[Sentence], commands: Sequence[Command]) -> list[Sample]:
    return samples_of(sentences, Retriever(commands, {}), BERLIN)


def offered(sample: Sample) -> list[str]:
    lines = sample.messages[0].content.removeprefix("Functions:\n").split("\nAnswer with")[0].splitlines()
    return [line.partition("(")[0] for line in lines]


@pytest.mark.parametrize("count", [3, 12, 16, 17, 40])
def test_every_command_has_negatives_that_are_no_other_samples(count: int) -> None:
    commands = node(count)
    sentences = dataset_of(commands, holdout_fraction=0.1).training
    kept = {sample.key for sample in sampled(sentences, commands)}
    kept -= {sample.key for sample in sampled([one for one in sentences if not one.is_negative], commands)}
    for name in (command.command_name for command in commands):
        negatives = [one for one in sentences if one.is_negative and name in {one.beside, one.withheld}]
        keys = {sample.key for sample in sampled(negatives, commands)} & kept
        assert LEAST_NEGATIVES <= len(keys) <= MOST_NEGATIVES
        kept -= keys


def test_a_negative_is_offered_the_right_one_and_what_it_is_beside_and_half_of_the_others() -> None:
    commands = node(12)
    (other, nobodys) = sampled(
        [Sentence("c3 number 1", "c3", beside="c2"), Sentence("Good morning", None, beside="c2")], commands
    )
    assert {"c3", "c2"} < set(offered(other))
    assert len(offered(other)) == 2 + 10 // 2
    assert "c2" in offered(nobodys)
    assert len(offered(nobodys)) == 1 + 11 // 2
    assert nobodys.completion == NONE_FITS


def test_a_sentence_of_a_command_is_offered_all_and_one_without_its_command_all_but_that() -> None:
    names = [f"c{n}" for n in range(12)]
    right, none = sampled([Sentence("c3", "c3"), Sentence("c3", None, withheld="c3")], node(12))
    assert offered(right) == names
    assert offered(none) == [name for name in names if name != "c3"]


@pytest.mark.parametrize("count", [1, 2])
def test_where_there_are_too_few_commands_to_choose_from_equal_ones_are_one(count: int) -> None:
    commands = node(count)
    found = sampled([Sentence("x", "c0"), Sentence("x", "c0", beside=commands[-1].command_name)], commands)
    assert len(found) == 1


def test_samples_are_the_same_every_time_and_said_at_moments_of_their_own() -> None:
    commands = node(12)
    sentences = dataset_of(commands, holdout_fraction=0.1).training
    found = sampled(sentences, commands)
    assert found == sampled(sentences, commands)
    moments = {sample.messages[0].content.partition("Now: ")[2] for sample in found}
    assert len(moments) == len({one.text for one in sentences})
