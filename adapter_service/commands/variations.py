"""Sentences that a node did not write: its own with other values, where a value stands in the sentence as it is.

"Dim the hall to 30 percent" is learned with other rooms and numbers too, so that values are copied and not recalled. A
value is only exchanged for one of the same kind, in the sentence and in the arguments at once: a number for another
number, a room for a room of the same source, a free text for one of the same parameter, a date key for a key that is
said in as many words. Nothing is guessed about the language; what is not found in the sentence stays.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from adapter_service.commands.date_keys import WEEKDAYS
from adapter_service.commands.schema import Command, Parameter
from adapter_service.commands.sentences import Sentence
from adapter_service.commands.words import normalized

_SAID_AS_WRITTEN = ("today", "tomorrow", "this_weekend", "next_week", "next_month", "day_after_tomorrow")
# A number is exchanged for one of its size: up to twice as large, or up to a hundred.
_SMALL, _LARGEST = 50, 100
_AT = re.compile(r"at_(\d+)(?:_(\d\d))?(am|pm)")
_DAY = re.compile(rf"(this|next|last)_({'|'.join(WEEKDAYS)})")


def varied(
    sentences: Sequence[Sentence], commands: Sequence[Command], *, each: int, held_out: Sequence[Sentence] = ()
) -> Iterator[Sentence]:
    """Up to `each` variations of every sentence of a command, not of negatives; the same ones every time.

    None of them is one of `held_out`, or of `sentences`.
    """
    known = _Values(sentences, commands)
    by_name = {command.command_name: command for command in commands}
    seen = {normalized(sentence.text) for sentence in (*sentences, *held_out)}
    for sentence in sentences:
        if sentence.command_name is None or sentence.is_negative:
            continue
        generator = random.Random(hashlib.sha256(sentence.text.encode()).digest())  # noqa: S311 - no secret
        for _ in range(each):
            other = known.exchange(sentence, by_name[sentence.command_name], generator)
            if normalized(other.text) not in seen:
                seen.add(normalized(other.text))
                yield other


class _Values:
    """What each parameter was called with, in all of a node's sentences; rooms and devices are shared by commands."""

    def __init__(self, sentences: Sequence[Sentence], commands: Sequence[Command]) -> None:
        self._of: dict[str, list[str]] = {}
        for command in commands:
            for sentence in sentences:
                if sentence.command_name == command.command_name and not sentence.is_negative:
                    for name, value in sentence.arguments.items():
                        parameter = command.parameter(name)
                        if parameter is not None and isinstance(value, str) and not parameter.enum_values:
                            values = self._of.setdefault(_kind(command, parameter), [])
                            values += [value] if value not in values else []

    def exchange(self, sentence: Sentence, command: Command, generator: random.Random) -> Sentence:
        """`sentence` with as many values exchanged as are found in it."""
        text, arguments = sentence.text, dict[str, Any](sentence.arguments)
        for name, value in sentence.arguments.items():
            if (parameter := command.parameter(name)) is None or parameter.enum_values:
                continue
            text, arguments[name] = self._exchanged(text, value, command, parameter, generator)
        return replace(sentence, text=text, arguments=arguments)

    def _exchanged(
        self, text: str, value: Any, command: Command, parameter: Parameter, generator: random.Random
    ) -> tuple[str, Any]:
        if isinstance(value, list):
            return _with_other_keys(text, value, generator)
        if isinstance(value, str):
            other: Any = generator.choice(self._of[_kind(command, parameter)])
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            other = generator.randint(1, max(10, 2 * value) if value <= _SMALL else _LARGEST)
        else:
            return text, value
        swapped = _swapped(text, str(value), str(other))
        return (text, value) if swapped is None else (swapped, other)


def _kind(command: Command, parameter: Parameter) -> str:
    return parameter.options_source or f"{command.command_name}.{parameter.name}"


def _with_other_keys(text: str, values: Sequence[Any], generator: random.Random) -> tuple[str, list[Any]]:
    items = []
    for value in values:
        text, item = _other_key(text, value, generator) if isinstance(value, str) else (text, value)
        items.append(item)
    return text, items


def _other_key(text: str, key: str, generator: random.Random) -> tuple[str, str]:
    """Another key in the place of `key`, where the text says it in as many words; else both as they were."""
    if found := _DAY.fullmatch(key):
        day = generator.choice(WEEKDAYS)
        said, other, other_key = found[2].title(), day.title(), f"{found[1]}_{day}"
    elif found := _AT.fullmatch(key):
        hour, minutes, half = found.groups()
        said = _at(hour, minutes, half, " ")
        hour, minutes = str(generator.randint(1, 12)), generator.choice(("15", "30", "45")) if minutes else None
        other, other_key = _at(hour, minutes, half, " "), f"at_{_at(hour, minutes, '', '_')}{half}"
    elif key in _SAID_AS_WRITTEN:
        other_key = generator.choice(_SAID_AS_WRITTEN)
        said, other = key.replace("_", " "), other_key.replace("_", " ")
    else:
        return text, key
    swapped = _swapped(text, said, other)
    return (text, key) if swapped is None else (swapped, other_key)


def _at(hour: str, minutes: str | None, half: str, between: str) -> str:
    return between.join(part for part in (hour, minutes, half) if part)


def _swapped(text: str, said: str, other: str) -> str | None:
    """`text` with `other` where `said` stands as whole words; None where it does not stand there exactly once."""
    places = list(re.finditer(rf"(?<!\w){re.escape(said)}(?!\w)", text))
    return f"{text[: places[0].start()]}{other}{text[places[0].end() :]}" if len(places) == 1 else None
