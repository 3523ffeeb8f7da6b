"""Of many commands the likeliest are offered, the same in training and in routing."""

from __future__ import annotations

import pytest

from adapter_service.commands.retrieval import MOST_CANDIDATES, Retriever
from adapter_service.commands.words import normalized, words
from tests.commands.making import command, numbered, read

FEW = read(numbered("go", 1), numbered("stop", 1))
MANY = read(
    *(numbered(f"other{n}", 1) for n in range(30)),
    command("set_timer", "x", description="Start a countdown", keywords=["टाइमर"]),
    command("control_light", "x", description="Switch lamps"),
)


def names(retriever: Retriever, text: str, **options: list[str]) -> list[str]:
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
