"""What a sentence bears out of a call: nothing made up, no room forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_service.commands.grounding import grounded
from adapter_service.commands.schema import Command
from tests.commands.making import command, read

ROOMS = {"rooms": ("living room", "room", "Küche", "hall")}


def parameter(name: str, kind: str = "string", *, required: bool = False, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "required": required, **more}


def made(*parameters: dict[str, Any]) -> Command:
    (one,) = read(command("act", "a", parameters=list(parameters)))
    return one


LABEL = made(parameter("minutes", "int", required=True), parameter("label"))
ROOM = made(parameter("what", required=True), parameter("room", options_source="rooms"))


def test_an_optional_text_that_nobody_said_is_taken_out() -> None:
    assert grounded(LABEL, {"minutes": 5, "label": "tours"}, "Timer of 5 minutes", {}) == {"minutes": 5}
    kept = {"minutes": 5, "label": "Boiled Eggs"}
    assert grounded(LABEL, kept, "5 minutes, for the boiled eggs!", {}) == kept


@pytest.mark.parametrize(
    "left",
    [
        {"what": "unsaid"},  # it is needed
        {"what": "jazz", "room": None},
    ],
)
def test_what_is_needed_or_no_text_stays(left: dict[str, Any]) -> None:
    assert grounded(ROOM, left, "play jazz", {}) == left


def test_choices_numbers_and_dates_stay_as_they_are() -> None:
    own = made(parameter("how", enum_values=["loud"]), parameter("count", "int"), parameter("when", "array<datetime>"))
    call = {"how": "loud", "count": 3, "when": ["tomorrow"]}
    assert grounded(own, call, "play", {}) == call


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


def test_a_room_that_the_model_made_up_gives_way_to_the_one_that_was_said() -> None:
    assert grounded(ROOM, {"what": "jazz", "room": "attic"}, "Jazz in the hall", ROOMS)["room"] == "hall"


def test_other_texts_are_never_put_in() -> None:
    assert grounded(LABEL, {"minutes": 5}, "living room timer, 5 minutes", ROOMS) == {"minutes": 5}
