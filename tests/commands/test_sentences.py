"""What is learned of a node's commands, and what is held out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.commands.sentences import (
    LEAST_NEGATIVES,
    MOST_NEGATIVES,
    MOST_SENTENCES,
    SMALL_TALK,
    Dataset,
    Sentence,
    dataset_of,
)
from adapter_service.commands.words import normalized
from adapter_service.errors import NothingToLearnError
from tests.commands.making import command, numbered, read

TENTH = 0.1


def positives(sentences: tuple[Sentence, ...]) -> list[Sentence]:
    return [one for one in sentences if not one.is_negative]


def test_an_example_is_learned_or_held_out_with_its_arguments() -> None:
    parameters = [{"name": "room", "type": "string"}]
    light = command("light", *((f"light in room {n}", {"room": str(n)}) for n in range(10)), parameters=parameters)
    dataset = dataset_of(read(light, numbered("stop", 10)), holdout_fraction=0.2)
    both = positives(dataset.training + dataset.holdout)
    assert {one.text: one.arguments for one in both if one.command_name == "light"} == {
        f"light in room {n}": {"room": str(n)} for n in range(10)
    }
    assert Counter(one.command_name for one in positives(dataset.holdout)) == {"light": 2, "stop": 2}


def test_the_split_is_the_same_every_time_and_whatever_else_the_node_can_do() -> None:
    alone = dataset_of(read(numbered("stop", 20)), holdout_fraction=TENTH)
    beside = dataset_of(read(numbered("go", 5), numbered("stop", 20)), holdout_fraction=TENTH)
    assert [one for one in positives(beside.holdout) if one.command_name == "stop"] == positives(alone.holdout)


def test_what_an_antipattern_names_is_the_other_commands_although_this_one_is_offered() -> None:
    anti = [
        {"command_name": "alarm", "description": "A time of day"},
        {"command_name": "elsewhere", "description": "x"},
    ]
    dataset = dataset_of(read(numbered("timer", 9, antipatterns=anti), numbered("alarm", 9)), holdout_fraction=TENTH)
    confused = [one for one in dataset.training if one.beside == "timer" and one.command_name is not None]
    assert {one.command_name for one in confused} == {"alarm"}
    assert len(confused) == 3
    assert {one.text for one in confused} <= {one.text for one in positives(dataset.training)}


def test_small_talk_and_a_command_that_is_not_offered_are_nobodys() -> None:
    dataset = dataset_of(read(numbered("timer", 9), numbered("alarm", 9)), holdout_fraction=TENTH)
    nobodys = [one for one in dataset.training if one.command_name is None]
    assert {one.text for one in nobodys if one.beside} <= set(SMALL_TALK)
    assert [(one.withheld, one.text.split()[0]) for one in nobodys if one.withheld] == [
        ("timer", "timer"),
        ("alarm", "alarm"),
    ]


def test_one_sentence_is_learned_once_and_one_that_means_two_things_not_at_all() -> None:
    one = command("one", "Do it", "do  it!", "Also this", "only one", "really one")
    other = command("other", "ALSO THIS.", "only the other", "really the other")
    dataset = dataset_of(read(one, other), holdout_fraction=TENTH)
    texts = [one.text for one in positives(dataset.training + dataset.holdout)]
    assert sorted(texts) == ["Do it", "only one", "only the other", "really one", "really the other"]
    assert (dataset.repeated, dataset.contradicting) == (1, ("Also this",))


def test_commands_that_contradict_each_other_in_everything_teach_nothing() -> None:
    with pytest.raises(NothingToLearnError, match="belongs to one command alone"):
        dataset_of(read(command("one", "Do it"), command("other", "do it")), holdout_fraction=TENTH)


@pytest.mark.parametrize("commands", [60, 200])
def test_of_a_large_node_so_many_are_learned_and_the_smallest_commands_lose_nothing(commands: int) -> None:
    node = read(*(numbered(f"c{n}", 50) for n in range(commands - 1)), numbered("rare", 3))
    dataset = dataset_of(node, holdout_fraction=TENTH)
    assert len(dataset.training) <= MOST_SENTENCES
    counts = Counter(one.command_name for one in positives(dataset.training + dataset.holdout))
    assert counts["rare"] == 3
    assert len({count for name, count in counts.items() if name != "rare"}) == 1
    assert set(counts) == {command.command_name for command in node}


WORDS = st.lists(st.sampled_from(["light", "Light", "on", "off", "in", "now!", "now"]), min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(st.lists(WORDS.map(" ".join), min_size=1, max_size=8), min_size=1, max_size=5), st.floats(0.05, 0.5))
def test_nothing_that_is_held_out_is_learned_and_every_command_has_its_negatives(
    sentences: list[list[str]], fraction: float
) -> None:
    names = [f"c{place}" for place in range(len(sentences))]
    given = [
        command(name, *texts, antipatterns=[{"command_name": names[place - 1], "description": "x"}])
        for place, (name, texts) in enumerate(zip(names, sentences, strict=True))
    ]
    try:
        dataset = dataset_of(read(*given), holdout_fraction=fraction)
    except NothingToLearnError:
        return
    learned, held = ({normalized(one.text) for one in part} for part in (dataset.training, dataset.holdout))
    assert not learned & held
    for name in {one.command_name for one in positives(dataset.training)}:
        assert LEAST_NEGATIVES <= negatives_of(dataset, str(name)) <= MOST_NEGATIVES


def negatives_of(dataset: Dataset, name: str) -> int:
    return sum(one.is_negative and name in {one.beside, one.withheld} for one in dataset.training)
