"""Sentences that a node did not write: its own with other values, where a value stands in the sentence as it is.

"Dim the hall to 30 percent" is learned with other rooms and numbers too, so that values are copied and not recalled. A
value is only exchanged for one of the same kind, in the sentence and in the arguments at once: a number for another
number, a room for a room of the same source, a free text for one of the same parameter, a date key for a key that is
said in as many words. Numbers are exchanged where they are words, too, if the sentences show which language's. Nothing
else is guessed about the language; what is not in the sentence, or is in two values, stays.
"""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from adapter_service.commands.date_keys import WEEKDAYS
from adapter_service.commands.number_words import NumberWords
from adapter_service.commands.schema import Command, Parameter
from adapter_service.commands.sentences import Sentence
from adapter_service.commands.words import normalized

# Keys that are said as they are written, by what may stand in each other's place; "the day after today" is none's.
_GROUPS = (("today", "tomorrow"), ("this_weekend", "next_week", "next_month"))
# A number is exchanged for one of its size: up to twice as large, or up to a hundred. Beyond are years and amounts.
_SMALL, _LARGEST = 50, 100
_AT = re.compile(r"at_(\d+)(?:_(\d\d))?(am|pm)")
_DAY = re.compile(rf"(this|next|last)_({'|'.join(WEEKDAYS)})")
# After a number that is an hour, or the minutes: "7 pm", "7 30 p.m.", "7 o'clock".
_CLOCK = re.compile(r"(?:\s+\d\d)?\s*(?:[ap]\.?\s?m\b|o['\u2019]clock\b)", re.IGNORECASE)


def variations_of(
    sentences: Sequence[Sentence], commands: Sequence[Command], *, each: int, without: Collection[str] = ()
) -> dict[str, list[Sentence]]:
    """Up to `each` variations of every sentence of a command, by its text; none of negatives. The same every time.

    None of them is one of `sentences`, or of `without`: held-out sentences and contradicting ones.
    """
    by_name = {command.command_name: command for command in commands}
    calls = [(one, by_name[one.command_name]) for one in sentences if one.command_name and not one.is_negative]
    known = _Values(calls)
    seen = {normalized(text) for text in (*(sentence.text for sentence in sentences), *without)}
    found: dict[str, list[Sentence]] = {}
    for sentence, command in calls:
        generator = random.Random(hashlib.sha256(sentence.text.encode()).digest())  # noqa: S311 - no secret
        mine = found.setdefault(sentence.text, [])
        for _ in range(each):
            other = known.exchange(sentence, command, generator)
            if normalized(other.text) not in seen:
                seen.add(normalized(other.text))
                mine.append(other)
    return found


class _Place(NamedTuple):
    """Where a value stands in a sentence; it is `holder[key]`, of the arguments or of a list that one of them is.

    `form` is that of its number's words; none where it stands there in figures.
    """

    start: int
    end: int
    holder: Any
    key: Any
    parameter: Parameter | None
    form: str | None = None


class _Values:
    """What each parameter was called with, in all of a node's sentences; rooms and devices are shared by commands."""

    def __init__(self, calls: Sequence[tuple[Sentence, Command]]) -> None:
        self._of: dict[str, dict[str, None]] = {}
        self._numbers = NumberWords.of((sentence.text, _numbers_of(sentence)) for sentence, _ in calls)
        for sentence, command in calls:
            for name, value in sentence.arguments.items():
                parameter = command.parameter(name)
                if parameter is None or parameter.enum_values or parameter.type.has_points_in_time:
                    continue
                if isinstance(value, str) and value.strip():
                    self._of.setdefault(_kind(command, parameter), {})[value] = None

    def exchange(self, sentence: Sentence, command: Command, generator: random.Random) -> Sentence:
        """`sentence` with as many values exchanged as are found in it, none for one that it has already."""
        text, arguments = sentence.text, {k: [*v] if isinstance(v, list) else v for k, v in sentence.arguments.items()}
        found = _places(text, arguments, command, self._numbers)
        places = sorted(found, key=lambda place: place.start, reverse=True)
        for place in places:  # from the right, so that the places that are left stay where they are
            if any(place.start < one.end and one.start < place.end for one in places if one is not place):
                continue
            in_use = {normalized(str(v)) for a in arguments.values() for v in (a if isinstance(a, list) else [a])}
            others = self._others(place, command, followed_by=sentence.text[place.end :])
            if free := [other for other in others if normalized(str(other)) not in in_use]:
                place.holder[place.key] = other = generator.choice(free)
                text = f"{text[: place.start]}{self._as_said(other, place, text)}{text[place.end :]}"
        return replace(sentence, text=text, arguments=arguments)

    def _as_said(self, other: Any, place: _Place, text: str) -> str:
        """`other` as what it takes the place of, in words or in figures, which a text may begin with."""
        if place.form is None:
            return _said(other, place.parameter)
        said = _said(other, place.parameter, _in_words(self._numbers, place.form))
        return f"{said[0].upper()}{said[1:]}" if text[place.start].isupper() else said

    def _others(self, place: _Place, command: Command, *, followed_by: str) -> Sequence[Any]:
        value, parameter = place.holder[place.key], place.parameter
        if parameter is None or parameter.enum_values:
            return ()
        if parameter.type.has_points_in_time:
            return _other_keys(str(value))
        if isinstance(place.holder, list) or (str(value).isdecimal() and _CLOCK.match(followed_by)):
            return ()
        if isinstance(value, str):
            return list(self._of[_kind(command, parameter)])
        largest = max(10, 2 * value) if value <= _SMALL else _LARGEST
        return range(1, largest + 1) if isinstance(value, int) and 0 < value <= _LARGEST else ()


def _kind(command: Command, parameter: Parameter) -> str:
    return parameter.options_source or f"{command.command_name}.{parameter.name}"


def _numbers_of(sentence: Sentence) -> set[int]:
    values = [one for value in sentence.arguments.values() for one in (value if isinstance(value, list) else [value])]
    hours = [int(found[1]) for one in values if isinstance(one, str) and (found := _AT.fullmatch(one))]
    return {*hours, *(one for one in values if isinstance(one, int) and not isinstance(one, bool))}


def _places(text: str, arguments: dict[str, Any], command: Command, numbers: NumberWords) -> Iterator[_Place]:
    """Of every value, also of those that are never exchanged: what is part of one of them has to stay."""
    for name, value in arguments.items():
        parameter = command.parameter(name)
        holder: Any = value if isinstance(value, list) else arguments
        for key in range(len(value)) if isinstance(value, list) else (name,):
            if span := _span(text, _said(holder[key], parameter)):
                yield _Place(*span, holder, key, parameter)
            else:
                yield from _in_words_of(text, holder, key, parameter, numbers)


def _in_words_of(
    text: str, holder: Any, key: Any, parameter: Parameter | None, numbers: NumberWords
) -> Iterator[_Place]:
    value = holder[key]
    at = _AT.fullmatch(value) if isinstance(value, str) else None
    number = int(at[1]) if at else value
    if not isinstance(number, int) or isinstance(number, bool):
        return
    for form in numbers.said(number):
        if span := _span(text, _said(value, parameter, _in_words(numbers, form)), ignores_case=True):
            yield _Place(*span, holder, key, parameter, form)
            return


def _in_words(numbers: NumberWords, form: str) -> Callable[[int], str]:
    return lambda number: numbers.said(number).get(form) or str(number)


def _said(value: Any, parameter: Parameter | None, number: Callable[[int], str] = str) -> str:
    """How a sentence has it that says it as it is; blank where it is nothing that can be said."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float) or parameter is None or not parameter.type.has_points_in_time:
        return str(value)
    if found := _DAY.fullmatch(value):
        return found[2].title()
    if found := _AT.fullmatch(value):
        return " ".join([number(int(found[1])), *([found[2]] if found[2] else []), found[3]])
    return value.replace("_", " ")


def _other_keys(key: str) -> Sequence[str]:
    """Twelve is no hour to exchange: it is noon or midnight in the vocabulary."""
    if found := _DAY.fullmatch(key):
        return [f"{found[1]}_{day}" for day in WEEKDAYS]
    if (found := _AT.fullmatch(key)) and found[1] != "12":
        return [f"at_{h}{m}{found[3]}" for h in range(1, 12) for m in (("_15", "_30", "_45") if found[2] else ("",))]
    return next((group for group in _GROUPS if key in group), ())


def _span(text: str, said: str, *, ignores_case: bool = False) -> tuple[int, int] | None:
    """Where `said` stands in `text`, with no word and no number going on beyond it, as 2 does in 2.5; if it is once."""
    pattern = rf"(?<!\d[.,:/\-\u2013])(?={re.escape(said)}(?![.,:/\-\u2013]\d))"
    found_at = re.finditer(pattern, text, re.IGNORECASE if ignores_case else re.NOFLAG)
    spans = [(found.start(), found.start() + len(said)) for found in found_at if said.strip()]
    whole = [(a, b) for a, b in spans if not any(map(_is_of_a_word, text[max(0, a - 1) : a] + text[b : b + 1]))]
    return whole[0] if len(whole) == 1 else None


def _is_of_a_word(char: str) -> bool:
    """Letters, digits and marks, which Indic vowel signs are; and what joins them, as in Persian, without width."""
    return unicodedata.category(char)[0] in "LMN" or char in "_\u200c\u200d"
