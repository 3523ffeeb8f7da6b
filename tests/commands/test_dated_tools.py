"""Dates as words where a model answers, and as ISO 8601 where a command is called."""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from adapter_service.commands.date_keys import STATIC_KEYS
from adapter_service.commands.dated_tools import said_in_keys, with_dates
from adapter_service.commands.tools import tool_of
from adapter_service.conversation import Tool
from adapter_service.errors import InvalidParameterError
from tests.commands.making import command, read

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=ZONE)  # a Wednesday


def tool(kind: str) -> Tool:
    (made,) = read(command("remind", "a", parameters=[{"name": "when", "type": kind, "required": False}]))
    return tool_of(made)


def pattern(kind: str) -> re.Pattern[str]:
    schema = said_in_keys(tool(kind)).parameters["properties"]["when"]
    return re.compile(schema.get("items", schema)["pattern"])


def test_lists_of_points_take_the_whole_vocabulary_and_iso_8601() -> None:
    allowed = pattern("array<datetime>")
    said = [*STATIC_KEYS, "in_20_minutes", "in_3_days", "at_7pm", "at_12_30am", "2026-03-04T07:00:00+01:00"]
    assert [one for one in said if not allowed.fullmatch(one)] == []
    assert not any(map(allowed.fullmatch, ("soon", "at_13pm", "tomorrows", "2026-13-04T07:00", "2026-03-04")))


def test_a_date_takes_days_and_a_time_takes_times() -> None:
    assert pattern("date").fullmatch("next_monday")
    assert not pattern("date").fullmatch("at_7pm")
    assert pattern("time").fullmatch("at_7pm")
    assert not pattern("time").fullmatch("next_monday")
    assert not pattern("date").fullmatch("next_week")
    assert pattern("array<date>").fullmatch("next_week")


def test_other_arguments_stay_as_they_are() -> None:
    plain = tool("string")
    assert said_in_keys(plain).parameters == plain.parameters
    assert with_dates(plain, {"when": "tomorrow"}, NOW, ZONE) == {"when": "tomorrow"}


def test_keys_of_one_phrase_become_one_point() -> None:
    found = with_dates(tool("array<datetime>"), {"when": ["tomorrow", "at_7am"]}, NOW, ZONE)
    assert found == {"when": ["2026-03-05T07:00:00+01:00"]}


def test_a_sentence_without_a_date_has_an_empty_list_which_the_form_allows() -> None:
    dates = tool("array<datetime>")
    form = said_in_keys(dates).parameters["properties"]["when"]
    assert [list(found) for found in (form, form["items"])] == [["type", "items"], ["type", "pattern"]]
    assert with_dates(dates, {"when": []}, NOW, ZONE) == {"when": []}


def test_what_a_client_describes_by_itself_is_resolved_too() -> None:
    own = Tool("remind", {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}})
    assert with_dates(own, {"day": "next_monday", "note": "x"}, NOW, ZONE) == {"day": "2026-03-09", "note": "x"}


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="when"):
        with_dates(tool("datetime"), {"when": "2026-02-30T07:00:00"}, NOW, ZONE)
