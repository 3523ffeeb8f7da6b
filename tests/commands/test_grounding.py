"""What a sentence bears out of a call: nothing made up, no room forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_service.commands.grounding import Grounding
from adapter_service.commands.sentences import Sentence
from tests.commands.making import command, read

ROOMS = {"rooms": ("living room", "room", "Küche", "hall")}


def parameter(name: str, kind: str = "string", *, required: bool = False, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "required": required, **more}


def made(*parameters: dict[str, Any], said: tuple[tuple[str, dict[str, Any]], ...] = ()) -> Grounding:
    """Of one command, with these learned sentences."""
    commands = read(command("act", "a", parameters=list(parameters)))
    return Grounding.of(commands, [Sentence(text, "act", arguments) for text, arguments in said])


def grounded(by: Grounding, arguments: dict[str, Any], sentence: str, known: Any = None) -> dict[str, Any]:
    return by.grounded("act", arguments, sentence, known or {})


LABEL = made(
    parameter("minutes", "int", required=True),
    parameter("label"),
    parameter("again", "int"),
    said=(
        ("Five minutes for the tea, then four", {"minutes": 5, "label": "tea", "again": 4}),
        ("10 minutes", {"minutes": 10}),
        ("Seven minutes and twelve more", {"minutes": 7, "again": 12}),
    ),
)
ROOM = made(
    parameter("what", required=True),
    parameter("room", options_source="rooms"),
    said=(("Blues in the hall", {"what": "blues", "room": "hall"}),),
)


def test_what_may_be_left_out_and_nobody_said_is_taken_out() -> None:
    assert grounded(LABEL, {"minutes": 5, "label": "tours", "again": 9}, "Timer of 5 minutes") == {"minutes": 5}
    kept = {"minutes": 5, "label": "boiled eggs"}
    assert grounded(LABEL, {"minutes": 5, "label": "Boiled Eggs"}, "5 minutes, for the boiled eggs!") == kept


def test_a_text_begins_and_ends_with_a_word() -> None:
    assert grounded(ROOM, {"what": " blues,", "room": "hall "}, "Blues in the hall") == {
        "what": "blues",
        "room": "hall",
    }


@pytest.mark.parametrize(
    ("sentence", "value", "spelled"),
    [
        ("Play the song Imagine", "imagine", "Imagine"),
        ("play reggae", "Reggae", "reggae"),
        ("Jazz please", "jazz", "jazz"),  # a sentence begins with a capital letter
        ("play jazzy tunes", "Jazz", "Jazz"),
        ("play (a) song", "(A)", "(a)"),
    ],
)
def test_a_text_is_spelled_as_in_the_sentence(sentence: str, value: str, spelled: str) -> None:
    assert grounded(ROOM, {"what": value}, sentence) == {"what": spelled}


@pytest.mark.parametrize("sentence", ["5 minutes, then 20", "five minutes, then twenty"])
def test_a_number_is_said_in_figures_or_in_words(sentence: str) -> None:
    kept = {"minutes": 5, "again": 20}
    assert grounded(LABEL, kept, sentence) == kept
    assert grounded(LABEL, {"minutes": 5, "again": 30}, sentence) == {"minutes": 5}


def test_a_text_of_the_words_that_examples_have_around_their_values_is_taken_out() -> None:
    by = made(parameter("room"), said=(("Heating in the hall to 20", {"room": "hall"}), ("Turn the heating down", {})))
    for around in ("heating", "the heating"):
        assert grounded(by, {"room": around}, "Put the heating to 18") == {}
    numbered = made(parameter("channel"), parameter("volume", "int"), said=(("Channel a, volume 7", {"volume": 7}),))
    assert grounded(numbered, {"channel": "7"}, "Channel 7") == {"channel": "7"}
    for said in ("hall", "heating room", "cellar", "\N{HEAVY BLACK HEART}"):
        assert grounded(by, {"room": said}, f"Heating in the {said}") == {"room": said}


def test_what_examples_have_without_saying_it_stays() -> None:
    by = made(parameter("percent", "int"), said=(("Half of it", {"percent": 50}), ("20 percent", {"percent": 20})))
    assert grounded(by, {"percent": 100}, "All of it") == {"percent": 100}


@pytest.mark.parametrize(
    "left",
    [
        {"what": "unsaid"},  # it is needed
        {"what": "jazz", "room": None},
    ],
)
def test_what_is_needed_or_no_text_stays(left: dict[str, Any]) -> None:
    assert grounded(ROOM, left, "play jazz") == left


def test_choices_stay_as_they_are() -> None:
    own = made(parameter("how", enum_values=["loud"]), said=(("Play it loud", {"how": "loud"}),))
    assert grounded(own, {"how": "loud"}, "play") == {"how": "loud"}


WHEN = parameter("when", "array<date>")
WEATHER = made(
    WHEN, said=(("Rain on Friday?", {"when": ["this_friday"]}), ("Snow in two days", {"when": ["in_2_days"]}))
)


@pytest.mark.parametrize(
    "sentence",
    [
        "Sun on Sundays",
        "Storm this weekend",
        "Snow on the 3rd",
        "Rain in half an hour",
        "Hail in four weeks",
        "Midnight",
    ],
)
def test_dates_of_a_sentence_that_says_any_are_the_models_own(sentence: str) -> None:
    assert grounded(WEATHER, {"when": ["tomorrow"]}, sentence) == {"when": ["tomorrow"]}


def test_dates_of_a_sentence_that_says_none_are_taken_out_where_they_may_be_left_out() -> None:
    made_up = {"when": ["in_7_minutes", "in_1_days"]}
    assert grounded(WEATHER, made_up, "Is it windy at this place") == {}
    needed = made({**WHEN, "required": True}, said=(("Rain on Friday?", {"when": ["this_friday"]}),))
    assert grounded(needed, made_up, "Is it windy") == made_up


def test_dates_stay_where_a_commands_examples_do_not_say_them_in_english() -> None:
    for example in ("Regnet es am Freitag", "Regnet es um 7 Uhr"):
        by = made(WHEN, said=((example, {"when": ["this_friday"]}),))
        assert grounded(by, {"when": ["tomorrow"]}, "Regnet es morgen") == {"when": ["tomorrow"]}


@pytest.mark.parametrize(
    ("sentence", "room"),
    [
        ("Jazz in the living room", "living room"),
        ("Jazz in der küche bitte", "Küche"),
        ("Jazz in the hall and in the living room", None),
        ("Jazz", None),
        ("Jazz in the hallway", None),
    ],
)
def test_a_room_that_was_said_is_put_in_where_it_is_the_only_one(sentence: str, room: str | None) -> None:
    assert grounded(ROOM, {"what": "jazz"}, sentence, ROOMS).get("room") == room


@pytest.mark.parametrize(
    ("value", "room"),
    [("hall lamp", "hall"), ("The Living Room", "living room"), ("hall and Küche", "hall and Küche"), ("shed", "shed")],
)
def test_a_room_with_more_words_to_it_is_the_room_alone(value: str, room: str) -> None:
    assert grounded(ROOM, {"what": "jazz", "room": value}, f"Jazz for {value}", {"rooms": ROOMS["rooms"]}) == {
        "what": "jazz",
        "room": room,
    }


def test_a_room_that_the_model_made_up_gives_way_to_the_one_that_was_said() -> None:
    assert grounded(ROOM, {"what": "jazz", "room": "attic"}, "Jazz in the hall", ROOMS)["room"] == "hall"


def test_other_texts_are_never_put_in() -> None:
    assert grounded(LABEL, {"minutes": 5}, "living room timer, 5 minutes", ROOMS) == {"minutes": 5}
