"""What training and routing know alike of a node: candidates and rooms, of learned sentences alone."""

from __future__ import annotations

from adapter_service.commands.learned import learned_of
from adapter_service.commands.retrieval import MOST_CANDIDATES
from tests.commands.making import command, numbered, read

ROOM = {"name": "room", "type": "string", "options_source": "rooms"}
NAMES = [f"room{letter}" for letter in "abcdefghijkl"]
LIGHT = command(
    "light",
    *((f"Dim the {room} to {n}", {"room": room, "x": "y"}) for room in NAMES for n in "12"),
    parameters=[ROOM, {"name": "x", "type": "string"}],
)


def test_rooms_are_those_of_learned_sentences_each_once_in_their_order() -> None:
    learned = learned_of(read(numbered("stop", 9), LIGHT), 0.3)
    told = [str(one.arguments["room"]) for one in learned.dataset.training if "room" in one.arguments]
    assert learned.rooms == tuple(sorted(set(told)))
    held = {str(one.arguments["room"]) for one in learned.dataset.holdout if "room" in one.arguments}
    assert held - set(told)
    assert not (held - set(told)) & set(learned.rooms)


def test_a_held_out_sentence_says_nothing_of_its_command_to_the_retriever() -> None:
    words = [f"word{letter}" for letter in "abcdefghijkl"]
    others = [numbered(f"act{n}", 3) for n in range(MOST_CANDIDATES)]
    learned = learned_of(read(*others, command("last", *words)), 0.3)
    found = {word: "last" in {one.command_name for one in learned.retriever.candidates(word)} for word in words}
    training = {one.text for one in learned.dataset.training if one.command_name == "last" and not one.is_negative}
    assert {word for word, is_found in found.items() if is_found} == training
    assert training < set(words)
