"""What an adapter of a node is taught and judged by, all in one."""

from __future__ import annotations

from collections import Counter
from zoneinfo import ZoneInfo

from adapter_service.commands.curriculum import NEGATIVES_AGAIN, Curriculum, curriculum_of
from adapter_service.commands.prompting import NONE_FITS, call_text
from adapter_service.commands.sentences import MOST_SENTENCES, Sentence, dataset_of
from adapter_service.commands.training_samples import MOMENTS
from adapter_service.commands.words import normalized
from tests.commands.making import command, numbered, read

PARAMETERS = [{"name": "room", "type": "string", "options_source": "rooms"}, {"name": "percent", "type": "int"}]
LIGHT = command(
    "light",
    *((f"Dim the {room} to {n}", {"room": room, "percent": n}) for room in ("hall", "attic") for n in range(20, 26)),
    parameters=PARAMETERS,
)
COMMANDS = read(LIGHT, numbered("stop", 9), command("go", "Go away", "Go now", "go  away!"))
ZONE = ZoneInfo("Asia/Kolkata")
VARIATIONS = 2


def made(fraction: float = 0.25) -> Curriculum:
    return curriculum_of(COMMANDS, ZONE, holdout_fraction=fraction, variations=VARIATIONS)


def test_it_is_the_same_every_time() -> None:
    assert made() == made()


def test_nothing_that_is_judged_by_is_learned_under_any_answer() -> None:
    made_one = made()
    learned = {normalized(sample.prompt) for sample in made_one.training}
    assert learned
    assert not learned & {normalized(one.sentence) for one in made_one.holdout}


def test_a_room_of_a_held_out_sentence_alone_is_told_to_nobody() -> None:
    rooms = [f"room{letter}" for letter in "abcdefghijkl"]
    node = read(command("light", *((f"Dim the {room}", {"room": room}) for room in rooms), parameters=PARAMETERS))
    one = curriculum_of(node, ZONE, holdout_fraction=0.25, variations=VARIATIONS)
    held_out = {str(held.arguments["room"]) for held in one.holdout if held.command_name}
    assert held_out
    assert set(one.rooms) == set(rooms) - held_out
    begun = {
        messages[0].content for messages in (*(s.messages for s in one.training), *(h.messages for h in one.holdout))
    }
    assert any("Rooms: " in text for text in begun)
    assert not [room for room in held_out for text in begun if room in text]


def test_what_is_judged_by_says_what_is_right_and_whose_it_is() -> None:
    holdout = made().holdout
    calls = [one for one in holdout if not one.is_negative]
    assert {one.counted_by for one in calls} == {"light", "stop", "go"}
    assert all(one.counted_by == one.command_name for one in calls)
    assert all(one.messages[-1].content == one.sentence for one in holdout)
    assert {one.arguments["room"] for one in calls if one.command_name == "light"} <= {"hall", "attic"}
    refused = [one for one in holdout if one.command_name is None]
    assert refused
    assert all(one.is_negative and one.counted_by in {"light", "stop", "go"} for one in refused)


def test_variations_are_learned_beside_the_examples() -> None:
    learned = {sample.prompt for sample in made().training if sample.metadata["command"] == "light"}
    examples = {str(one["voice_command"]) for one in LIGHT["examples"]}
    assert len(learned & examples) > 5
    assert len(learned - examples) > len(learned & examples) / 2


def test_a_sentence_without_values_is_learned_as_often_as_one_with_its_variations() -> None:
    stopped = Counter(sample.prompt for sample in made().training if sample.metadata["command"] == "stop")
    alone = [text for text in stopped if text not in {one.text for one in beside_others()}]
    assert alone
    assert all(stopped[text] == min(1 + VARIATIONS, MOMENTS) for text in alone)


def beside_others() -> list[Sentence]:
    return [one for one in dataset_of(COMMANDS, holdout_fraction=0.25).training if one.beside and one.command_name]


def test_a_negative_is_learned_several_times() -> None:
    refused = Counter(sample.prompt for sample in made().training if sample.completion == NONE_FITS)
    assert set(refused.values()) == {1 + NEGATIVES_AGAIN}


def test_of_a_large_node_so_many_are_learned() -> None:
    node = read(*(numbered(f"c{n}", 50) for n in range(40)))
    learned = curriculum_of(node, ZONE, holdout_fraction=0.05, variations=VARIATIONS).training
    assert len(learned) == MOST_SENTENCES


def test_every_answer_is_a_call_of_an_offered_function_or_that_none_fits() -> None:
    for sample in made().training:
        name = sample.metadata["command"]
        if name is None:
            assert sample.completion == NONE_FITS
        else:
            assert sample.completion.startswith(call_text(name, {}).removesuffix("}}"))
            assert f"\n{name}(" in sample.messages[0].content


def test_what_was_repeated_and_contradicts_is_counted() -> None:
    node = read(LIGHT, numbered("stop", 9), command("go", "Go", "Go now", "go!", "stop number 1", "Go away"))
    one = curriculum_of(node, ZONE, holdout_fraction=0.25, variations=VARIATIONS)
    assert (one.repeated, one.contradicting, one.recall) == (1, ("stop number 1",), 1.0)
