"""What a node's sentences are as samples: each negative has a prompt of its own, and all are the same every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from adapter_service.commands.prompting import NONE_FITS
from adapter_service.commands.retrieval import PARTS, Retriever
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import LEAST_NEGATIVES, MOST_NEGATIVES, Sentence, dataset_of
from adapter_service.commands.training_samples import MOMENTS, judged_in, samples_of
from adapter_service.samples import Sample
from tests.commands.making import command, numbered, read

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
    for name in (one.command_name for one in commands):
        assert LEAST_NEGATIVES <= sum(one.beside == name for one in sentences) <= MOST_NEGATIVES
    assert len({sample.key for sample in sampled(sentences, commands)}) == len(sentences)


def test_what_is_learned_beside_another_is_offered_both_and_fewer_than_all() -> None:
    (other,) = sampled([Sentence("c3 number 1", "c3", beside="c2")], node(12))
    assert {"c3", "c2"} < set(offered(other))
    assert len(offered(other)) == 12 - 12 // PARTS


def test_small_talk_is_offered_all() -> None:
    right, nobodys = sampled([Sentence("c3", "c3"), Sentence("Good morning", None, beside="c2")], node(12))
    assert offered(right) == offered(nobodys) == [f"c{n}" for n in range(12)]
    assert nobodys.completion == NONE_FITS


@pytest.mark.parametrize("sentence", [Sentence("c3", "c3"), Sentence("Good morning", None, beside="c2")])
@pytest.mark.parametrize("times", [1, 2, MOMENTS, MOMENTS + 1])
def test_what_is_there_several_times_is_said_at_as_many_moments(sentence: Sentence, times: int) -> None:
    found = sampled([sentence] * times, node(12))
    assert len(moments_in(sample.messages[0].content for sample in found)) == len(found) == min(times, MOMENTS)


def test_sentences_share_what_they_begin_with() -> None:
    commands = node(12)
    found = sampled(dataset_of(commands, holdout_fraction=0.1).training, commands)
    begun = Counter(sample.messages[0].content for sample in found)
    assert len(begun) <= (PARTS + 1) * MOMENTS
    assert len({" ".join(offered(sample)) for sample in found}) <= PARTS + 1


@pytest.mark.parametrize("count", [1, 2])
def test_where_there_are_too_few_commands_to_choose_from_equal_ones_are_one(count: int) -> None:
    commands = node(count)
    found = sampled([Sentence("x", "c0"), Sentence("x", "c0", beside=commands[-1].command_name)], commands)
    assert len(found) == 1


def moments_in(texts: Iterable[str]) -> set[str]:
    return {text.partition("Now: ")[2].splitlines()[0] for text in texts}


def test_samples_are_the_same_every_time_and_judged_at_moments_that_nothing_was_learned_at() -> None:
    commands = node(12)
    dataset = dataset_of(commands, holdout_fraction=0.1)
    found = sampled(dataset.training, commands)
    assert found == sampled(dataset.training, commands)
    learned_at = moments_in(sample.messages[0].content for sample in found)
    retriever = Retriever(commands, {})
    judged_at = moments_in(judged_in(one, retriever, BERLIN)[0].content for one in dataset.holdout)
    assert len(learned_at) == MOMENTS
    assert not learned_at & judged_at
    assert len(judged_at) == len({one.text for one in dataset.holdout})


def test_rooms_are_known_now_and_then() -> None:
    parameters = [{"name": "room", "type": "string", "options_source": "rooms"}, {"name": "x", "type": "string"}]
    examples = [(f"number {n}", {"room": room, "x": "y"}) for n, room in enumerate(["hall", "attic", "hall"] * 5)]
    commands = read(command("light", *examples, parameters=parameters))
    sentences = dataset_of(commands, holdout_fraction=0.1).training
    found = samples_of(sentences, Retriever(commands, {}), BERLIN, rooms=("hall", "attic"))
    told = Counter("Rooms: hall, attic." in sample.messages[0].content for sample in found)
    assert set(told) == {True, False}
