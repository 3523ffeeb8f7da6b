"""Variations say in the sentence what they have in the arguments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest

from adapter_service.commands.date_keys import is_date_key
from adapter_service.commands.number_words import NumberWords
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import Sentence, dataset_of
from adapter_service.commands.variations import variations_of
from adapter_service.commands.words import normalized
from tests.commands.making import command, read

PARAMETERS = [
    {"name": "room", "type": "string", "options_source": "rooms", "required": False},
    {"name": "percent", "type": "int", "required": False},
    {"name": "action", "type": "string", "enum_values": ["on", "dim"], "required": False},
    {"name": "when", "type": "array<datetime>", "required": False},
    {"name": "loud", "type": "bool", "required": False},
    {"name": "to", "type": "string", "options_source": "rooms", "required": False},
    {"name": "item", "type": "string", "required": False},
    {"name": "day", "type": "date", "required": False},
]


def varied(
    sentences: Sequence[Sentence], commands: Sequence[Command], *, each: int, without: Sequence[str] = ()
) -> list[Sentence]:
    """All variations, whichever sentence they are of."""
    return [*chain.from_iterable(variations_of(sentences, commands, each=each, without=without).values())]


def variations(*sentences: tuple[str, dict[str, Any]], each: int = 8) -> list[Sentence]:
    commands = read(command("light", *sentences, parameters=PARAMETERS))
    given = [Sentence(text, "light", arguments) for text, arguments in sentences]
    return varied(given, commands, each=each)


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
    ],
)
def test_a_day_and_a_time_are_exchanged_where_they_are_said(text: str, keys: list[str]) -> None:
    found = variations((text, {"when": keys}))
    assert found
    for one in found:
        for before, after in zip(keys, one.arguments["when"], strict=True):
            assert is_date_key(after)
            assert after != before
            assert after.split("_")[0] == before.split("_")[0] or after == "today"
            said = after.removeprefix("this_").removeprefix("at_").replace("_", " ")
            said = said.replace("pm", " pm").replace("am", " am") if after.startswith("at_") else said
            assert said in one.text.lower()


@pytest.mark.parametrize(
    ("key", "others"),
    [
        ("today", {"tomorrow"}),
        ("this_weekend", {"next_week", "next_month"}),
        ("next_month", {"this_weekend", "next_week"}),
    ],
)
def test_a_date_key_is_exchanged_for_one_that_fits_in_the_same_place(key: str, others: set[str]) -> None:
    said = key.replace("_", " ")
    found = variations((f"Light {said}", {"when": [key]}), each=30)
    assert {one.arguments["when"][0] for one in found} == others


def test_an_hour_is_never_exchanged_for_twelve_which_is_noon_or_midnight() -> None:
    found = variations(("Light at 3 pm", {"when": ["at_3pm"]}), each=200)
    assert {one.arguments["when"][0] for one in found} == {f"at_{hour}pm" for hour in range(1, 12) if hour != 3}


def test_a_single_point_in_time_is_exchanged_as_a_date_key_and_not_for_what_others_have() -> None:
    found = variations(("Light tomorrow", {"day": "tomorrow"}), ("Light on 2026-05-01", {"day": "2026-05-01"}))
    assert [(one.text, one.arguments) for one in found] == [("Light today", {"day": "today"})]


def test_no_value_is_looked_for_in_what_was_exchanged_before() -> None:
    found = variations(
        ("Add milk three times", {"item": "milk", "percent": 3}), ("Add 3 apples", {"item": "3 apples"}), each=30
    )
    assert ("Add 3 apples three times", {"item": "3 apples", "percent": 3}) in [
        (one.text, one.arguments) for one in found
    ]
    assert all(one.arguments.get("percent", 3) == 3 for one in found)
    assert all(f"Add {one.arguments['item']}" in one.text for one in found)


def test_what_another_argument_is_part_of_stays() -> None:
    found = variations(("Turn the fan on", {"item": "fan on", "action": "on"}), ("Buy milk", {"item": "milk"}))
    assert [one.text for one in found] == ["Buy fan on"]


def test_a_blank_value_is_exchanged_for_nothing_and_nothing_for_it() -> None:
    found = variations(("Light!", {"room": ""}), ("Really ?", {"room": " "}), ("Dim the hall", {"room": "hall"}))
    assert found == []


def test_no_room_is_found_within_a_word_that_goes_on_with_a_vowel_sign() -> None:
    found = variations(("घरों on", {"room": "घर"}), ("Dim the hall", {"room": "hall"}))
    assert [one.text for one in found] == ["Dim the घर"]


def test_two_rooms_of_a_sentence_stay_two() -> None:
    found = variations(
        ("Carry the light from hall to attic", {"room": "hall", "to": "attic"}),
        ("Dim the cellar", {"room": "cellar"}),
        ("Dim the porch", {"room": "porch"}),
        each=30,
    )
    carried = [one for one in found if "to" in one.arguments]
    assert len(carried) > 3
    for one in carried:
        assert one.text == f"Carry the light from {one.arguments['room']} to {one.arguments['to']}"
        assert one.arguments["room"] != one.arguments["to"]


def test_two_days_of_a_sentence_stay_two() -> None:
    found = variations(("Light on Monday and Friday", {"when": ["this_monday", "this_friday"]}), each=100)
    assert len(found) > 10
    assert all(len(set(one.arguments["when"])) == 2 for one in found)


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
        ("The films of 2024", {"percent": 2024}),  # a year
        *((f"Light {number} now", {"percent": 2}) for number in ("2.5", "1,2", "7:2", "2/4", "1-2", "2\u20134")),
        *((f"Light at 7{half}", {"percent": 7}) for half in (" pm", " a.m.", " 15 PM", " o'clock")),
        ("Light at 7 pm", {"percent": 7, "when": ["at_7pm"]}),  # of two values
        ("Add 3 apples", {"item": "3 apples", "percent": 3}),
        ("Light at 12 pm", {"when": ["at_12pm"]}),  # noon
        ("Light the day after tomorrow", {"when": ["day_after_tomorrow"]}),
        ("From hall to hall", {"room": "hall", "to": "hall"}),
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
    held_out = [one.text for one in dataset.holdout]
    found = varied(dataset.training, commands, each=9, without=held_out)
    assert found == varied(dataset.training, commands, each=9, without=held_out)
    texts = [normalized(one.text) for one in (*found, *dataset.training, *dataset.holdout) if not one.is_negative]
    assert len(texts) == len(set(texts))


def test_none_is_one_that_must_not_be_learned_in_other_letters_either() -> None:
    given = [("Dim the hall", {"room": "hall"}), ("Dim the attic now", {"room": "attic"})]
    commands = read(command("light", *given, parameters=PARAMETERS))
    sentences = [Sentence(text, "light", arguments) for text, arguments in given]
    found = varied(sentences, commands, each=3, without=["dim  the ATTIC!"])
    assert [one.text for one in found] == ["Dim the hall now"]


def test_variations_are_found_by_the_sentence_that_they_are_of() -> None:
    given = [("Dim the hall", {"room": "hall"}), ("Dim the attic now", {"room": "attic"})]
    commands = read(command("light", *given, parameters=PARAMETERS))
    found = variations_of([Sentence(text, "light", arguments) for text, arguments in given], commands, each=1)
    assert {text: [one.text for one in others] for text, others in found.items()} == {
        "Dim the hall": ["Dim the attic"],
        "Dim the attic now": ["Dim the hall now"],
    }


def test_negatives_are_not_varied() -> None:
    commands = read(command("light", ("Dim to 30", {"percent": 30}), parameters=PARAMETERS))
    assert varied([Sentence("Dim to 30", None, beside="light")], commands, each=3) == []


TEN, TWELVE = ("Light to ten percent", {"percent": 10}), ("Twelve percent light", {"percent": 12})


def test_a_number_in_words_becomes_another_in_words() -> None:
    found = variations(TEN, TWELVE, each=20)
    assert len(found) > 10
    assert all(not any(map(str.isdigit, one.text)) for one in found)
    for one in found:
        said = one.text.lower().removeprefix("light to ").removesuffix(" light").removesuffix(" percent")
        assert said in NumberWords("en").said(one.arguments["percent"]).values()


def test_a_sentence_that_begins_with_a_number_in_words_begins_with_a_capital() -> None:
    begun = [one.text for one in variations(TEN, TWELVE, each=20) if one.text.endswith(" light")]
    assert begun
    assert all(text[0].isupper() and text[1:].islower() for text in begun)


def test_an_hour_in_words_becomes_another_hour_in_words() -> None:
    found = variations(TEN, TWELVE, ("Light at seven am", {"when": ["at_7am"]}), each=3)
    hours = [one for one in found if "when" in one.arguments]
    assert hours
    for one in hours:
        (key,) = one.arguments["when"]
        (said,) = set(NumberWords("en").said(int(key.removeprefix("at_").removesuffix("am"))).values())
        assert one.text == f"Light at {said} am"


def test_a_number_in_words_stays_where_no_other_sentence_shows_the_language() -> None:
    assert variations(TEN) == []
