"""Date keys and the points in time that they stand for."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.commands.date_keys import PATTERNS, STATIC_KEYS, WEEKDAYS, is_date_key, resolve
from adapter_service.errors import InvalidParameterError

BERLIN = ZoneInfo("Europe/Berlin")
WEDNESDAY = datetime(2026, 1, 14, 14, 30, 20, tzinfo=UTC)  # 15:30 in Berlin
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "UTC"]).map(ZoneInfo)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - UTC is put in
SOME_KEYS = st.sampled_from([*STATIC_KEYS, "in_0_minutes", "in_90_minutes", "in_3_days", "at_7am", "at_12_45pm"])


def of(*keys: str, zone: ZoneInfo = BERLIN) -> list[str]:
    return resolve(keys, WEDNESDAY, zone)


def test_the_vocabulary_has_64_keys_in_order_and_three_patterns() -> None:
    assert len(STATIC_KEYS) == 64
    assert list(STATIC_KEYS) == sorted(set(STATIC_KEYS))
    assert list(PATTERNS) == ["in_{N}_minutes", "in_{N}_days", "at_{H}am|pm"]


@pytest.mark.parametrize(
    ("keys", "points"),
    [
        (["today"], ["2026-01-14"]),
        (["day_after_tomorrow"], ["2026-01-16"]),
        (["in_2_days"], ["2026-01-16"]),
        (["next_monday"], ["2026-01-19"]),
        (["this_wednesday"], ["2026-01-14"]),
        (["next_wednesday"], ["2026-01-21"]),
        (["last_wednesday"], ["2026-01-07"]),
        (["last_tuesday"], ["2026-01-13"]),
        (["this_weekend"], ["2026-01-17", "2026-01-18"]),
        (["next_week"], [f"2026-01-{day}" for day in range(19, 26)]),
        (["next_month"], ["2026-02-01", "2026-02-28"]),
        (["last_month"], ["2025-12-01", "2025-12-31"]),
        (["last_year"], ["2025-01-01", "2025-12-31"]),
        (["tonight"], ["2026-01-14T20:00:00+01:00"]),
        (["last_night"], ["2026-01-13T20:00:00+01:00"]),
        (["noon"], ["2026-01-14T12:00:00+01:00"]),
        (["next_tuesday", "morning"], ["2026-01-20T07:00:00+01:00"]),
        (["at_7_30pm", "tomorrow"], ["2026-01-15T19:30:00+01:00"]),
        (["at_12am"], ["2026-01-14T00:00:00+01:00"]),
        (["at_12pm"], ["2026-01-14T12:00:00+01:00"]),
        (["in_20_minutes"], ["2026-01-14T15:50:20+01:00"]),
        (["this_weekend", "morning"], ["2026-01-17T07:00:00+01:00", "2026-01-18T07:00:00+01:00"]),
        (["tonight", "tomorrow_morning"], ["2026-01-14T20:00:00+01:00", "2026-01-15T07:00:00+01:00"]),
        (["tomorrow_morning", "at_8am"], ["2026-01-15T08:00:00+01:00"]),
        (["tomorrow", "morning", "at_8am"], ["2026-01-15T08:00:00+01:00"]),
        (["tonight", "at_9pm"], ["2026-01-14T21:00:00+01:00"]),
        (["tonight", "tomorrow"], ["2026-01-14T20:00:00+01:00", "2026-01-15"]),
        (["in_5_minutes", "tomorrow"], ["2026-01-14T15:35:20+01:00", "2026-01-15"]),
        (["morning", "evening"], ["2026-01-14T07:00:00+01:00", "2026-01-14T18:00:00+01:00"]),
        ([], []),
    ],
)
def test_keys_stand_for_points_in_time(keys: list[str], points: list[str]) -> None:
    assert of(*keys) == points


@pytest.mark.parametrize("part", ["morning", "afternoon", "evening", "night"])
def test_a_part_of_a_day_has_one_hour_however_it_is_said(part: str) -> None:
    """The hub's tables had two or three for each."""
    this = "tonight" if part == "night" else f"this_{part}"
    assert of(this) == of("today", part) == of(part)
    assert of(f"tomorrow_{part}") == of("tomorrow", part)


@given(MOMENTS, ZONES, st.sampled_from(WEEKDAYS))
def test_the_next_monday_is_a_monday_1_to_7_days_ahead(now: datetime, zone: ZoneInfo, name: str) -> None:
    today = now.astimezone(zone).date()
    for which, least, most in (("next", 1, 7), ("this", 0, 6), ("last", -7, -1)):
        (point,) = resolve([f"{which}_{name}"], now, zone)
        day = date.fromisoformat(point)
        assert day.strftime("%A").lower() == name
        assert least <= (day - today).days <= most


@given(MOMENTS, ZONES, st.lists(SOME_KEYS, max_size=3))
def test_every_key_becomes_iso_8601_of_that_zone(now: datetime, zone: ZoneInfo, keys: list[str]) -> None:
    for point in resolve(keys, now, zone):
        moment = datetime.fromisoformat(point)
        if "T" in point:
            assert moment.utcoffset() == moment.astimezone(zone).utcoffset()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d[+-]\d\d:\d\d)?", point)


@given(MOMENTS, ZONES, st.integers(0, 10_000))
def test_minutes_are_minutes_also_where_the_clocks_are_changed(now: datetime, zone: ZoneInfo, minutes: int) -> None:
    (point,) = resolve([f"in_{minutes}_minutes"], now, zone)
    assert datetime.fromisoformat(point) - now.replace(microsecond=0) == timedelta(minutes=minutes)


def test_a_time_that_the_clocks_skip_is_as_much_later_and_the_first_of_two_is_meant() -> None:
    before_spring = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert resolve(["tomorrow", "at_2_30am"], before_spring, BERLIN) == ["2026-03-29T03:30:00+02:00"]
    before_autumn = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert resolve(["tomorrow", "at_2_30am"], before_autumn, BERLIN) == ["2026-10-25T02:30:00+02:00"]


def test_the_day_is_that_of_the_nodes_zone() -> None:
    late = datetime(2026, 1, 14, 23, 30, tzinfo=UTC)
    assert resolve(["today"], late, BERLIN) == ["2026-01-15"]
    assert resolve(["today"], late, ZoneInfo("America/New_York")) == ["2026-01-14"]


@pytest.mark.parametrize(
    "text",
    ["", "Tomorrow", "soon", "in_-1_days", "in_2_weeks", "at_13pm", "at_0am", "at_7_60pm", "next_noon", "at_٧pm"],
)
def test_nothing_else_is_a_key(text: str) -> None:
    assert not is_date_key(text)
    with pytest.raises(InvalidParameterError, match="is no date key"):
        of(text)


def test_an_unknown_key_says_which_one_was_meant() -> None:
    with pytest.raises(InvalidParameterError, match="'tomorow' is no date key; did you mean 'tomorrow'"):
        of("tomorow")


def test_a_key_beyond_the_calendar_is_refused() -> None:
    for key, day in (
        ("next_year", datetime(9999, 5, 1, tzinfo=UTC)),
        ("at_11pm", datetime(9999, 12, 31, 23, tzinfo=UTC)),
    ):
        with pytest.raises(InvalidParameterError, match="leads beyond the calendar"):
            resolve([key], day, ZoneInfo("America/New_York"))
