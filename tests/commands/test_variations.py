"""Variations say in the sentence what they have in the arguments."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_service.commands.date_keys import is_date_key
from adapter_service.commands.sentences import Sentence, dataset_of
from adapter_service.commands.variations import varied
from adapter_service.commands.words import normalized
from tests.commands.making import command, read

PARAMETERS = [
    {"name": "room", "type": "string", "options_source": "rooms", "required": False},
    {"name": "percent", "type": "int", "required": False},
    {"name": "action", "type": "string", "enum_values": ["on", "dim"], "required": False},
    {"name": "when", "type": "array<datetime>", "required": False},
    {"name": "loud", "type": "bool", "required": False},
]


def variations(*sentences: tuple[str, dict[str, Any]], each: int = 8) -> list[Sentence]:
    commands = read(command("light", *sentences, parameters=PARAMETERS))
    given = [Sentence(text, "light", arguments) for text, arguments in sentences]
    return list(varied(given, commands, each=each))


def test_a_room_is_exchanged_for_another_known_one_and_a_number_for_another() -> None:
    found = variations(
        ("Dim the hall to 30 percent", {"room": "hall", "percent": 30, "action": "dim"}),
        ("It is dark in the living room", {"room": "living room", "action": "on"}),
    )
    assert found
    for one in found:
        assert one.arguments["room"] in {"hall", "living room"}
        assert f"the {one.arguments['room']}" in one.text
        if "percent" in one.arguments:
            assert f"to {one.arguments['percent']} percent" in one.text
            assert one.arguments["action"] == "dim"
    assert len({one.arguments.get("percent") for one in found}) > 3


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("Light on Monday at 3 pm", ["this_monday", "at_3pm"]),
        ("Light next Tuesday at 7 15 am", ["next_tuesday", "at_7_15am"]),
        ("Light tomorrow please", ["tomorrow"]),
        ("Light the day after tomorrow", ["day_after_tomorrow"]),
    ],
)
def test_a_day_and_a_time_are_exchanged_where_they_are_said(text: str, keys: list[str]) -> None:
    found = variations((text, {"when": keys}))
    assert found
    for one in found:
        for before, after in zip(keys, one.arguments["when"], strict=True):
            assert is_date_key(after)
            assert after.split("_")[0] == before.split("_")[0] or "_" not in before or before == "day_after_tomorrow"
            said = after.removeprefix("this_").removeprefix("at_").replace("_", " ")
            said = said.replace("pm", " pm").replace("am", " am") if after.startswith("at_") else said
            assert said.replace("weekend", "this weekend").removeprefix("this ") in one.text.lower()


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("Light for ten percent", {"percent": 10}),  # not as a figure
        ("30 and 30", {"percent": 30}),  # twice: which one is it?
        ("Set it to 300", {"percent": 30}),  # within another
        ("Turn it on", {"action": "on"}),  # one of few values: the sentence may hang together with it
        ("Half past", {"when": ["noon"]}),
        ("Loud", {"loud": True}),
        ("Silence 0", {"percent": 0}),
    ],
)
def test_what_does_not_stand_there_as_it_is_stays(text: str, arguments: dict[str, Any]) -> None:
    assert variations((text, arguments)) == []


def test_they_are_the_same_every_time_and_none_is_a_sentence_that_there_is() -> None:
    sentences = [
        (f"Dim the {room} to {n} percent", {"room": room, "percent": n})
        for room in ("hall", "attic")
        for n in (1, 2, 3)
    ]
    commands = read(command("light", *sentences, parameters=PARAMETERS))
    dataset = dataset_of(commands, holdout_fraction=0.5)
    found = list(varied(dataset.training, commands, each=9, held_out=dataset.holdout))
    assert found == list(varied(dataset.training, commands, each=9, held_out=dataset.holdout))
    texts = [normalized(one.text) for one in (*found, *dataset.training, *dataset.holdout) if not one.is_negative]
    assert len(texts) == len(set(texts))


def test_negatives_are_not_varied() -> None:
    commands = read(command("light", ("Dim to 30", {"percent": 30}), parameters=PARAMETERS))
    assert list(varied([Sentence("Dim to 30", None, withheld="light")], commands, each=3)) == []
