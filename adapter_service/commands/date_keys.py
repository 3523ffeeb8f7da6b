"""The words for dates that adapters are taught, and the points in time that they stand for.

A model that is asked for `next_tuesday` needs no calendar, and one of 270 million parameters has none; the key is
resolved by arithmetic. The vocabulary is version 2.0 of the hub's: 64 keys and three patterns. The hub's own tables
contradict each other (an afternoon at 13 and at 14 o'clock, a night at 19, 20 and 21), and its weekdays are one day
off, so there is one table here: HOURS.

Weeks begin on Monday (ISO 8601). `next_monday` is the first Monday after today, 1 to 7 days ahead; `last_monday` the
last one before; `this_monday` today or the first to come. Periods are several dates: a weekend its two days, a week
its seven, a month and a year their first and last.

Keys of one phrase belong together: a day and a time are one point (`next_tuesday`, `morning`). One that has both
(`tomorrow_morning`) is a point of its own, unless a clock time says it better (`tomorrow_morning`, `at_8am`).
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from adapter_service.errors import InvalidParameterError
from adapter_service.suggestions import did_you_mean

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# The one table of hours. A part of a day is where it begins to be meant; a night is the evening's end.
HOURS: Mapping[str, int] = {
    "midnight": 0, "morning": 7, "breakfast": 8, "noon": 12, "lunch": 12,
    "afternoon": 13, "evening": 18, "dinner": 18, "night": 20, "after_dinner": 20,
}  # fmt: skip
_DAYS = {"day_before_yesterday": -2, "yesterday": -1, "today": 0, "tomorrow": 1, "day_after_tomorrow": 2}
_TIMES: Mapping[str, int] = {
    **{name: HOURS[name] for name in ("morning", "afternoon", "evening", "night", "noon", "midnight")},
    **{f"at_{name}": HOURS[name] for name in ("noon", "midnight", "breakfast", "dinner")},
    **{f"during_{name}": HOURS[name] for name in ("breakfast", "lunch", "dinner")},
    "after_dinner": HOURS["after_dinner"],
}
_DAYS_WITH_TIMES: Mapping[str, tuple[int, int]] = {
    "tonight": (0, HOURS["night"]),
    "last_night": (-1, HOURS["night"]),
    "tomorrow_night": (1, HOURS["night"]),
    **{
        f"{day}_{part}": (offset, HOURS[part])
        for day, offset in (("tomorrow", 1), ("yesterday", -1), ("this", 0))
        for part in ("morning", "afternoon", "evening")
    },
}
_WHICH = {"last": -1, "this": 0, "next": 1}
_PERIODS = ("week", "weekend", "month", "year")
STATIC_KEYS = tuple(
    sorted(
        [
            *_DAYS,
            *_TIMES,
            *_DAYS_WITH_TIMES,
            *(f"{which}_{name}" for which in _WHICH for name in (*WEEKDAYS, *_PERIODS)),
        ]
    )
)
_STATIC = frozenset(STATIC_KEYS)
_OF_WHICH = re.compile(rf"(last|this|next)_({'|'.join((*WEEKDAYS, *_PERIODS))})")
_IN_MINUTES = re.compile(r"in_([0-9]{1,6})_minutes")
_IN_DAYS = re.compile(r"in_([0-9]{1,5})_days")
_AT = re.compile(r"at_(1[0-2]|[1-9])(?:_([0-5][0-9]))?(am|pm)")
PATTERNS: Mapping[str, str] = {
    "in_{N}_minutes": f"^{_IN_MINUTES.pattern}$",
    "in_{N}_days": f"^{_IN_DAYS.pattern}$",
    "at_{H}am|pm": f"^{_AT.pattern}$",
}

VERSION = "2.0"
# Of the patterns, and of how keys go together, for whoever asks for the vocabulary.
NOTES: Mapping[str, str] = {
    "in_{N}_minutes": "so many minutes from now; hours are minutes too: in_120_minutes",
    "in_{N}_days": "so many days from today; weeks are days too: in_14_days",
    "at_{H}am|pm": "a time of day, with minutes as in at_7_30pm; 12 at night is midnight, 12 at noon is noon",
    "several": "keys of one phrase belong together: [next_tuesday, morning] is one point in time",
    "combined": "tomorrow_morning and its like have day and time in one key",
    "none": "a sentence without a date has no key: an empty list, or the argument left out",
}


def is_date_key(text: str) -> bool:
    """Whether the vocabulary has it, as it stands: `tomorrow`, `in_20_minutes`, `at_7_30am`."""
    return text in _STATIC or any(pattern.fullmatch(text) for pattern in (_IN_MINUTES, _IN_DAYS, _AT))


def has_day(key: str) -> bool:
    """Whether a key says on which day; one that does not is a time of any day."""
    return is_date_key(key) and key not in _TIMES and _AT.fullmatch(key) is None


def has_time(key: str) -> bool:
    """Whether a key says at which time of the day."""
    return key in _TIMES or key in _DAYS_WITH_TIMES or any(form.fullmatch(key) for form in (_AT, _IN_MINUTES))


def is_period(key: str) -> bool:
    """Whether a key stands for several days."""
    found = _OF_WHICH.fullmatch(key)
    return found is not None and found[2] in _PERIODS


@dataclass(frozen=True, slots=True)
class _Part:
    """What one key says: which days (none: not said), at which time of the day, or the very moment."""

    days: tuple[date, ...] = ()
    at: time | None = None
    moment: datetime | None = None
    is_clock: bool = False


def resolve(keys: Sequence[str], now: datetime, zone: ZoneInfo) -> list[str]:
    """ISO 8601 of what the `keys` of one phrase stand for at `now`, in `zone`: dates, and points with their offset.

    Every day that is said without a time is combined with every time that is said without a day; a time without any
    day is today's. A local time that the clocks skip is as much later as they are put forward; of one that comes twice
    the first is meant.

    Args:
        keys: none gives none.
        now: aware, in any zone.

    Raises:
        InvalidParameterError: a key is not in the vocabulary, or leads beyond the calendar.
    """
    local = now.astimezone(zone)
    try:
        return _combined([_part(key, local) for key in keys], local.date(), zone)
    except (OverflowError, ValueError) as error:  # date's, of a year that there is not
        raise InvalidParameterError(f"{list(keys)} leads beyond the calendar; name a nearer day") from error


def _combined(parts: Sequence[_Part], today: date, zone: ZoneInfo) -> list[str]:
    if any(part.is_clock for part in parts):
        # Of "tomorrow morning at eight" the part of the day is said better by the clock.
        parts = [_Part(part.days, moment=part.moment) if part.days else part for part in parts]
        parts = [part for part in parts if part.is_clock or part.at is None]
    times = [part.at for part in parts if part.at is not None and not part.days]
    lone_times = times and not any(part.days for part in parts)
    points = [local_point(today, at, zone) for at in times] if lone_times else []
    for part in parts:
        if part.moment is not None:
            points.append(part.moment.isoformat(timespec="seconds"))
        for day in part.days:
            if part.at is not None:
                points.append(local_point(day, part.at, zone))
            else:
                points += [local_point(day, at, zone) for at in times] or [day.isoformat()]
    return points


def _part(key: str, now: datetime) -> _Part:
    today = now.date()
    if key in _TIMES:
        return _Part(at=time(_TIMES[key]))
    if key in _DAYS_WITH_TIMES:
        offset, hour = _DAYS_WITH_TIMES[key]
        return _Part(days=(today + timedelta(offset),), at=time(hour))
    if found := _IN_MINUTES.fullmatch(key):
        later = now.astimezone(UTC) + timedelta(minutes=int(found[1]))
        return _Part(moment=later.astimezone(now.tzinfo))
    if found := _AT.fullmatch(key):
        hour = int(found[1]) % 12 + (12 if found[3] == "pm" else 0)
        return _Part(at=time(hour, int(found[2] or 0)), is_clock=True)
    return _Part(days=_days(key, today))


def _days(key: str, today: date) -> tuple[date, ...]:
    if key in _DAYS:
        return (today + timedelta(_DAYS[key]),)
    if found := _IN_DAYS.fullmatch(key):
        return (today + timedelta(int(found[1])),)
    if found := _OF_WHICH.fullmatch(key):
        which, name = found.groups()
        return _weekday(which, name, today) if name in WEEKDAYS else _DATES_OF[name](_WHICH[which], today)
    meant = did_you_mean(key, STATIC_KEYS)
    raise InvalidParameterError(f"{key!r} is no date key{meant} known: {', '.join([*STATIC_KEYS, *PATTERNS])}")


def _weekday(which: str, name: str, today: date) -> tuple[date, ...]:
    ahead = (WEEKDAYS.index(name) - today.weekday()) % 7  # 0 to 6
    if which == "this":
        return (today + timedelta(ahead),)
    if which == "next":
        return (today + timedelta(ahead or 7),)
    return (today + timedelta(ahead - 7),)


def _week(number: int, today: date) -> tuple[date, ...]:
    monday = today - timedelta(today.weekday()) + timedelta(weeks=number)
    return tuple(monday + timedelta(day) for day in range(7))


def _weekend(number: int, today: date) -> tuple[date, ...]:
    return _week(number, today)[5:]


def _month(number: int, today: date) -> tuple[date, ...]:
    year, month = divmod(today.year * 12 + today.month - 1 + number, 12)
    return date(year, month + 1, 1), date(year, month + 1, calendar.monthrange(year, month + 1)[1])


def _year(number: int, today: date) -> tuple[date, ...]:
    return date(today.year + number, 1, 1), date(today.year + number, 12, 31)


_DATES_OF: Mapping[str, Callable[[int, date], tuple[date, ...]]] = {
    "week": _week, "weekend": _weekend, "month": _month, "year": _year,
}  # fmt: skip


def local_point(day: date, at: time, zone: ZoneInfo) -> str:
    """ISO 8601 of a local time; one that the clocks skip is as much later as they are put forward."""
    wall = datetime.combine(day, at, zone)
    # There and back: a time that the clocks skip comes back as the one that they show then.
    return wall.astimezone(UTC).astimezone(zone).isoformat(timespec="seconds")
