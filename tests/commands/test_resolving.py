"""A parameter's value stays of its type when its keys are resolved."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.commands.date_keys import is_date_key
from adapter_service.commands.parameter_types import ParameterType
from adapter_service.commands.resolving import resolved
from tests.commands.test_date_keys import BERLIN, MOMENTS, SOME_KEYS, WEDNESDAY, ZONES


@pytest.mark.parametrize(
    ("kind", "value", "becomes"),
    [
        ("date", "tomorrow", "2026-01-15"),
        ("date", "tonight", "2026-01-14"),
        ("datetime", "tomorrow", "2026-01-15T00:00:00+01:00"),
        ("datetime", "tonight", "2026-01-14T20:00:00+01:00"),
        ("time", "tomorrow_morning", "07:00:00"),
        ("array<date>", ["this_weekend"], ["2026-01-17", "2026-01-18"]),
        ("array<date>", ["2026-02-01", "tomorrow"], ["2026-02-01", "2026-01-15"]),
        ("array<datetime>", ["next_tuesday", "morning"], ["2026-01-20T07:00:00+01:00"]),
        ("array<time>", ["this_weekend", "noon"], ["12:00:00"]),
        ("datetime", "2026-02-01T10:00:00", "2026-02-01T10:00:00"),
        ("string", "tonight", "tonight"),
        ("list", ["milk", "today", "eggs"], ["milk", "today", "eggs"]),
        ("int", 5, 5),
    ],
)
def test_a_parameters_keys_become_what_it_is_and_the_rest_stays(kind: str, value: object, becomes: object) -> None:
    assert resolved(value, type_named(kind), WEDNESDAY, BERLIN) == becomes


TEMPORAL = st.sampled_from(["date", "datetime", "time", "date[]", "array<datetime>", "array[time]"])


@given(TEMPORAL, st.lists(SOME_KEYS | st.just("2026-02-01"), min_size=1, max_size=3), MOMENTS, ZONES)
def test_what_is_resolved_is_of_the_parameters_type_as_it_was(
    name: str, keys: list[str], now: datetime, zone: ZoneInfo
) -> None:
    kind = type_named(name)
    value: object = keys if kind.is_array else keys[0]
    if kind.holds(value):
        found = resolved(value, kind, now, zone)
        assert kind.holds(found)
        assert not [one for one in (found if isinstance(found, list) else [found]) if is_date_key(one)]


def type_named(name: str) -> ParameterType:
    kind = ParameterType.named(name)
    assert kind is not None
    return kind
