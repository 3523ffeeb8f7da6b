"""Of many commands the likeliest are offered, the same in training and in routing."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_service.commands.retrieval import MOST_CANDIDATES, PARTS, Retriever
from adapter_service.commands.schema import Command
from adapter_service.commands.words import normalized, words
from tests.commands.making import command, numbered, read

FEW = read(numbered("go", 1), numbered("stop", 1))
MANY = read(
    *(numbered(f"other{n}", 1) for n in range(30)),
    command("set_timer", "x", description="Start a countdown", keywords=["टाइमर"]),
    command("control_light", "x", description="Switch lamps"),
)


def names(retriever: Retriever, text: str, **options: Any) -> list[str]:
    return [one.command_name for one in retriever.candidates(text, **options)]


@pytest.mark.parametrize("text", ["go", "neither", ""])
def test_where_all_have_room_all_are_offered_in_the_nodes_order(text: str) -> None:
    assert names(Retriever(FEW, {}), text) == ["go", "stop"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A countdown please", "set_timer"),
        ("timer!", "set_timer"),
        ("मेरा टाइमर", "set_timer"),
        ("switch it", "control_light"),
        ("make it dark", "control_light"),
    ],
)
def test_of_many_those_are_offered_that_share_words_with_the_sentence(text: str, name: str) -> None:
    found = names(Retriever(MANY, {"control_light": ["It is dark in the hall"]}), text)
    assert name in found
    assert len(found) == MOST_CANDIDATES
    assert found == [one.command_name for one in MANY if one.command_name in found]


def test_a_sentence_of_unknown_words_is_offered_the_same_ones_every_time() -> None:
    retriever = Retriever(MANY, {})
    assert names(retriever, "xyzzy") == names(retriever, "") == [f"other{n}" for n in range(MOST_CANDIDATES)]


@pytest.mark.parametrize("commands", [FEW, MANY])
def test_who_has_to_be_offered_is_and_who_must_not_is_not(commands: tuple[object, ...]) -> None:
    retriever = Retriever(commands, {})  # type: ignore[arg-type]
    last, first = commands[-1].command_name, commands[0].command_name  # type: ignore[attr-defined]
    assert last in names(retriever, first, beside=[last])
    assert first not in names(retriever, first, withheld=[first])


@pytest.mark.parametrize("commands", [MANY[:1], FEW, MANY[:12], MANY])
def test_two_commands_are_together_without_some_others(commands: tuple[Command, ...]) -> None:
    retriever, all_names = Retriever(commands, {}), [one.command_name for one in commands]
    for left in all_names:
        for right in all_names:
            part = retriever.part_without([left, right])
            assert part <= set(all_names) - {left, right}
            assert len(part) <= len(commands) / PARTS + 1
    assert len(commands) < PARTS or all(retriever.part_without([one, all_names[0]]) for one in all_names)


def test_the_nearest_command_is_the_one_with_most_of_the_same_words() -> None:
    commands = read(
        command("alarm", "Wake me at seven"), command("timer", "Count ten minutes down"), command("silent", "xyzzy")
    )
    known = {"alarm": ["Ring in ten minutes"], "timer": ["Count ten minutes down"]}
    retriever = Retriever(commands, known)
    assert (retriever.nearest("alarm"), retriever.nearest("timer")) == ("timer", "alarm")
    assert Retriever(commands[:1], known).nearest("alarm") is None


def test_commands_without_a_word_are_all_as_likely() -> None:
    silent = read(*(command("_" * n, "x", description="!!!") for n in range(1, 31)))
    found = names(Retriever(silent, {}), "lights")
    assert found == [one.command_name for one in silent[:MOST_CANDIDATES]]


def test_one_command_with_words_is_found_among_those_without() -> None:
    silent = [command("_" * n, "x", description="!!!") for n in range(1, 31)]
    assert "lights" in names(Retriever(read(*silent, command("lights", "x", description="!!!")), {}), "lights")


def test_a_name_is_known_by_its_words() -> None:
    assert "set_timer" in names(Retriever(MANY, {}), "set")


def test_recall_is_the_share_of_sentences_whose_command_is_offered() -> None:
    retriever = Retriever(MANY, {})
    assert retriever.recall([("timer", "set_timer"), ("xyzzy", "set_timer")]) == 0.5
    assert retriever.recall([]) == 1.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Turn ON the light!", ["turn", "on", "the", "light"]),
        ("रसोई की बत्ती", ["रसोई", "की", "बत्ती"]),
        ("Küche, 20\u2009%", ["küche", "20"]),
        ("ﬁne", ["fine"]),
    ],
)
def test_words_are_whole_in_any_script(text: str, found: list[str]) -> None:
    assert words(text) == found
    assert normalized(text) == " ".join(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Set it to -5 degrees", "Set it to 5 degrees"),
        ("Volume +", "Volume -"),
        ("Volume +5", "Volume -5"),
        ("💡", "🔇"),
        ("20 °", "20"),
        ("more $", "more €"),
    ],
)
def test_symbols_and_signs_distinguish_sentences_and_are_no_words(one: str, other: str) -> None:
    assert normalized(one) != normalized(other)
    assert all(char.isalnum() for text in (one, other) for word in words(text) for char in word)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Set it to -5.", "set it to −5"),
        ("(-5)", "-5"),
        ("Light - on!", "light on"),
        ("Wi-Fi on", "wi fi on"),
        ("COVID-19", "covid 19"),
        ("💡on", "💡 On"),
        ("5°", "5 °"),
    ],
)
def test_punctuation_distinguishes_nothing(one: str, other: str) -> None:
    assert normalized(one) == normalized(other)
