"""What is learned of a node's commands, and what is held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.commands.sentences import (
    LEAST_NEGATIVES,
    MOST_NEGATIVES,
    MOST_SENTENCES,
    REQUESTS,
    SMALL_TALK,
    Dataset,
    Sentence,
    dataset_of,
)
from adapter_service.commands.validation import read_commands
from adapter_service.commands.words import normalized, words
from adapter_service.errors import NothingToLearnError
from adapter_service.settings import CommandSettings
from tests.commands.making import command, numbered, read

TENTH = 0.1


def positives(sentences: tuple[Sentence, ...]) -> list[Sentence]:
    return [one for one in sentences if not one.is_negative]


def own(sentences: tuple[Sentence, ...], name: str) -> list[str]:
    return [one.text for one in positives(sentences) if one.command_name == name]


def held_out_of(texts: Sequence[str], fraction: float, *others: dict[str, Any]) -> set[str]:
    node = read(command("stop", *texts), *others)
    return set(own(dataset_of(node, holdout_fraction=fraction).holdout, "stop"))


def by_hash(texts: Sequence[str]) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())


def share(text: str) -> float:
    """Where a text that is normalized already lies between 0 and 1."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 16**16


def test_an_example_is_learned_or_held_out_with_its_arguments() -> None:
    parameters = [{"name": "room", "type": "string"}]
    light = command("light", *((f"light in room {n}", {"room": str(n)}) for n in range(10)), parameters=parameters)
    dataset = dataset_of(read(light, numbered("stop", 10)), holdout_fraction=0.2)
    both = positives(dataset.training + dataset.holdout)
    assert {one.text: one.arguments for one in both if one.command_name == "light"} == {
        f"light in room {n}": {"room": str(n)} for n in range(10)
    }


TEXTS = [f"stop number {number}" for number in range(50)]


def test_a_sentence_is_held_out_by_its_own_hash() -> None:
    assert held_out_of(TEXTS, 0.2) == {text for text in TEXTS if share(text) < 0.2}
    assert held_out_of([text.upper() + "!" for text in TEXTS], 0.2) == {
        text.upper() + "!" for text in TEXTS if share(text) < 0.2
    }


def test_an_example_that_is_added_moves_no_other() -> None:
    held = held_out_of(TEXTS[:20], 0.2)
    for count in range(21, 51):
        now = held_out_of(TEXTS[:count], 0.2)
        assert now & set(TEXTS[: count - 1]) == held
        held = now


def test_a_command_gives_one_away_and_keeps_one_where_it_can() -> None:
    low, high = by_hash(TEXTS)[:5], by_hash(TEXTS)[-5:]
    assert held_out_of(high, 0.2) == {high[0]}
    assert held_out_of(low, 0.2) == set(low[:-1])
    assert held_out_of(low[:1], 0.2) == held_out_of(high[:1], 0.2) == set()


@pytest.mark.parametrize("others", [1, 199])
def test_what_else_a_node_can_do_does_not_matter_to_what_is_held_out(others: int) -> None:
    assert held_out_of(TEXTS, TENTH, *(numbered(f"c{n}", 30) for n in range(others))) == held_out_of(TEXTS, TENTH)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
def test_small_talk_is_split_as_sentences_are(fraction: float) -> None:
    dataset = dataset_of(read(*(numbered(f"c{n}", 4) for n in range(60))), holdout_fraction=fraction)
    talk = {*SMALL_TALK, *REQUESTS}
    learned, held = ({one.text for one in part if one.text in talk} for part in (dataset.training, dataset.holdout))
    expected = {text for text in talk if share(normalized(text)) < fraction}
    ordered = by_hash([normalized(text) for text in talk])
    if not expected:
        assert {normalized(text) for text in held} == {ordered[0]}
    elif len(expected) == len(talk):
        assert {normalized(text) for text in learned} == {ordered[-1]}
    else:
        assert held == expected
    assert learned | held == talk


def test_small_talk_that_is_somebodys_is_nobodys_no_more() -> None:
    node = read(
        command("bed", "good night!", "Never mind", "sleep"),
        command("cancel", "never  mind", "cancel", keywords=["THANK YOU VERY MUCH"]),
        *(numbered(f"c{n}", 4) for n in range(60)),
    )
    dataset = dataset_of(node, holdout_fraction=TENTH)
    nobodys = {one.text for one in dataset.training + dataset.holdout if one.command_name is None and one.beside}
    assert set(SMALL_TALK) - nobodys == {"Good night", "Never mind", "Thank you very much"}


def test_where_all_small_talk_is_somebodys_there_is_none() -> None:
    node = read(command("talk", *SMALL_TALK), command("ask", *REQUESTS), numbered("stop", 4))
    dataset = dataset_of(node, holdout_fraction=TENTH)
    assert [one for one in dataset.training + dataset.holdout if one.command_name is None and one.beside] == []


def test_what_an_antipattern_names_is_the_other_commands_although_this_one_is_offered() -> None:
    anti = [
        {"command_name": "alarm", "description": "A time of day"},
        {"command_name": "elsewhere", "description": "x"},
    ]
    node = read(numbered("timer", 9, antipatterns=anti), numbered("alarm", 9), numbered("timer_too", 9))
    dataset = dataset_of(node, holdout_fraction=TENTH)
    (confused,) = (one for one in dataset.training if one.beside == "timer" and one.command_name is not None)
    assert confused.command_name == "alarm"
    assert confused.text in own(dataset.training, "alarm")


def test_without_an_antipattern_it_is_the_command_that_is_most_alike() -> None:
    node = read(command("ring", "Ring soon", "Ring me"), numbered("stop", 9), command("call", "Call me", "Call you"))
    dataset = dataset_of(node, holdout_fraction=TENTH)
    beside = {one.beside: one.command_name for one in dataset.training if one.beside and one.command_name}
    assert (beside["ring"], beside["call"]) == ("call", "ring")


def test_small_talk_and_requests_are_nobodys() -> None:
    dataset = dataset_of(read(numbered("timer", 9), numbered("alarm", 9)), holdout_fraction=TENTH)
    nobodys = [one for one in dataset.training if one.command_name is None]
    assert {one.text for one in nobodys} <= {*SMALL_TALK, *REQUESTS}
    assert Counter(one.beside for one in nobodys) == {"timer": 4, "alarm": 4}
    assert len({one.text for one in nobodys}) == 8


def test_a_request_that_a_command_may_be_about_is_not_nobodys() -> None:
    many = [numbered(f"c{n}", 4) for n in range(60)]
    all_of_them = dataset_of(read(*many), holdout_fraction=TENTH)
    door = numbered("open_door", 4, keywords=["PHONE"], parameters=[{"name": "table", "type": "string"}])
    fewer = dataset_of(read(*many, door), holdout_fraction=TENTH)
    gone = requests_of(all_of_them) - requests_of(fewer)
    assert gone == {one for one in REQUESTS if {"door", "phone", "table", "open"} & set(words(one))}
    assert len(gone) == 5


def requests_of(dataset: Dataset) -> set[str]:
    return {one.text for one in dataset.training + dataset.holdout} & set(REQUESTS)


def test_one_sentence_is_learned_once_and_one_that_means_two_things_not_at_all() -> None:
    one = command("one", "Do it", "do  it!", "Also this", "only one", "really one")
    other = command("other", "ALSO THIS.", "only the other", "really the other")
    dataset = dataset_of(read(one, other), holdout_fraction=TENTH)
    texts = [one.text for one in positives(dataset.training + dataset.holdout)]
    assert sorted(texts) == ["Do it", "only one", "only the other", "really one", "really the other"]
    assert (dataset.repeated, dataset.contradicting) == (1, ("Also this",))


def test_what_differs_in_a_sign_or_a_symbol_means_two_things() -> None:
    one = command("up", "Volume +", "Set it to 5 degrees", "🔊")
    other = command("down", "Volume -", "Set it to -5 degrees", "🔉")
    dataset = dataset_of(read(one, other), holdout_fraction=TENTH)
    assert len(positives(dataset.training + dataset.holdout)) == 6
    assert not dataset.contradicting


def test_commands_that_contradict_each_other_in_everything_teach_nothing() -> None:
    with pytest.raises(NothingToLearnError, match="belongs to one command alone"):
        dataset_of(read(command("one", "Do it"), command("other", "do it")), holdout_fraction=TENTH)


@pytest.mark.parametrize("commands", [60, 200, 300])
def test_of_a_large_node_so_many_are_learned_and_the_smallest_commands_lose_nothing(commands: int) -> None:
    given = [*(numbered(f"c{n}", 50) for n in range(commands - 1)), numbered("rare", 3)]
    for place, one in enumerate(given):
        one["antipatterns"] = [{"command_name": given[place - 1]["command_name"], "description": "x"}]
    node = read_commands(given, CommandSettings(min_examples=1, max_commands=commands, max_schema_bytes=2**22))
    dataset = dataset_of(node, holdout_fraction=TENTH)
    assert len(dataset.training) <= MOST_SENTENCES
    learned = Counter(one.command_name for one in positives(dataset.training))
    (each,) = {count for name, count in learned.items() if name != "rare"}
    assert set(learned) == {command.command_name for command in node}
    assert learned["rare"] == min(each, 3 - len(own(dataset.holdout, "rare")))


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
    for name in names:
        assert own(dataset.training, name) or not own(dataset.holdout, name)
    for learned_name in {one.command_name for one in positives(dataset.training)}:
        assert LEAST_NEGATIVES <= negatives_of(dataset, str(learned_name)) <= MOST_NEGATIVES


def negatives_of(dataset: Dataset, name: str) -> int:
    return sum(one.is_negative and name == one.beside for one in dataset.training)
