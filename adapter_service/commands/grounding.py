"""What a sentence bears out of the call that a model made of it.

A small model likes to fill in what nobody said. What may be left out of a call, is a text or a number and stands in no
word of the sentence is taken out again, where a command's own examples always say it; so is a text of words that they
have around their values alone ("heating" is no room), and a date, of a sentence that has no word of a date's and no
number, where examples say theirs in English words. A room that is in the sentence, among those that the home has, and
was left out is put in; one with more words to it ("the hall lamp") becomes the room. Other texts are spelled as in the
sentence, without blanks and commas around them. Nothing else is touched: what a command needs, choices, and which date
it is are the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from adapter_service.commands.date_keys import STATIC_KEYS
from adapter_service.commands.number_words import LARGEST, NumberWords
from adapter_service.commands.schema import Command, Parameter
from adapter_service.commands.sentences import Sentence
from adapter_service.commands.words import normalized, words

_TEXTS, _NUMBERS = frozenset({"str", "string"}), frozenset({"int", "integer", "float"})
# Lists of the hub's that a sentence names one of, by `options_source` up to its colon.
_KNOWN = frozenset({"rooms", "devices"})
# What a sentence without any date has none of, of the words that date keys are made of.
_IDLE_IN_KEYS = frozenset(["after", "at", "before", "during", "last", "next", "this"])
_OF_DATES = {word for key in STATIC_KEYS for word in key.split("_")} - _IDLE_IN_KEYS
_OF_DATES |= {"hour", "minute", "midday", "fortnight", "decem", "novem", "octob", "septem", "august", "janu", "febru"}
_AROUND_TEXTS = " \t\r\n,;"
_DATE_WORD = re.compile(rf"\b(?:{'|'.join(sorted(_OF_DATES))})")


class Grounding:
    """For the commands that `sentences` are of: those that are learned, nothing held out."""

    def __init__(
        self,
        commands: Mapping[str, Command],
        numbers: NumberWords,
        always_said: frozenset[tuple[str, str]],
        around: Mapping[str, frozenset[str]],
    ) -> None:
        self._commands = commands
        self._numbers = numbers
        self._always_said = always_said
        self._around = around

    @classmethod
    def of(cls, commands: Sequence[Command], sentences: Iterable[Sentence]) -> Self:
        by_name = {command.command_name: command for command in commands}
        own = [one for one in sentences if one.command_name in by_name and not one.is_negative]
        numbers = NumberWords.of((one.text, _whole_numbers(one.arguments.values())) for one in own)
        said: dict[tuple[str, str], bool] = {}
        for one in own:
            for name, value in one.arguments.items():
                key = (str(one.command_name), name)
                text = f" {normalized(one.text)} "
                dated = _has_dates(by_name[key[0]], name)
                says = _DATE_WORD.search(text) is not None if dated else _is_said(value, text, numbers)
                said[key] = said.get(key, True) and says
        return cls(by_name, numbers, frozenset(key for key, always in said.items() if always), _words_around(own))

    def grounded(
        self, name: str, arguments: Mapping[str, Any], sentence: str, known: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """`arguments` of a call of the command called `name` that was made of `sentence`.

        Args:
            known: the home's own names, by the `options_source` that a parameter may have: rooms, devices.
        """
        command = self._commands.get(name)
        if command is None:
            return dict(arguments)
        said = f" {normalized(sentence)} "
        named = {key: _as_said(command.parameter(key), value, sentence, known) for key, value in arguments.items()}
        found = {key: value for key, value in named.items() if self._is_borne_out(command, key, value, said)}
        for parameter in command.parameters:
            if parameter.name not in found and not parameter.required and _is_scalar(parameter, _TEXTS):
                forgotten = _named(parameter, said, known)
                if forgotten is not None:
                    found[parameter.name] = forgotten
        return found

    def _is_borne_out(self, command: Command, name: str, value: Any, said: str) -> bool:
        parameter = command.parameter(name)
        if parameter is None or parameter.required or (command.command_name, name) not in self._always_said:
            return True
        if parameter.type.has_points_in_time:
            return _says_a_date(said, self._numbers)
        if not _is_scalar(parameter, _TEXTS | _NUMBERS):
            return True
        own = words(value) if isinstance(value, str) else []
        if own and self._around[command.command_name].issuperset(own):
            return False
        return _is_said(value, said, self._numbers)


def _has_dates(command: Command, name: str) -> bool:
    parameter = command.parameter(name)
    return parameter is not None and parameter.type.has_points_in_time


def _is_scalar(parameter: Parameter, scalars: frozenset[str]) -> bool:
    """Of these types, and no choice."""
    return not parameter.enum_values and not parameter.type.is_array and parameter.type.scalar in scalars


def _says_a_date(said: str, numbers: NumberWords) -> bool:
    """Any at all: a number may be of one, too."""
    if _DATE_WORD.search(said) or any(map(str.isdecimal, said)):
        return True
    return any(_is_said(number, said, numbers) for number in range(1, LARGEST + 1))


def _is_said(value: Any, said: str, numbers: NumberWords) -> bool:
    """Whether a text, or a number in figures or in words, stands in the sentence; anything else does."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return True
    if isinstance(value, str):
        return f" {normalized(value)} " in said
    spelled = numbers.said(int(value)).values() if value == int(value) else ()
    return any(f" {normalized(form)} " in said for form in (f"{value:g}", *spelled))


def _words_around(sentences: Sequence[Sentence]) -> Mapping[str, frozenset[str]]:
    """By command: what its sentences are made of and no value of any command is."""
    own: dict[str, set[str]] = {}
    of_values: set[str] = set()
    for one in sentences:
        own.setdefault(str(one.command_name), set()).update(words(one.text))
        of_values.update(word for value in _alone(one.arguments.values()) for word in words(value))
    return {name: frozenset(found - of_values) for name, found in own.items()}


def _alone(values: Iterable[Any]) -> Iterator[str]:
    """Texts, and numbers in figures, out of their lists."""
    for value in values:
        if isinstance(value, list):
            yield from _alone(value)
        elif isinstance(value, str):
            yield value
        elif isinstance(value, int | float):
            yield f"{value:g}"


def _whole_numbers(values: Iterable[Any]) -> list[int]:
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool)]


def _as_said(parameter: Parameter | None, value: Any, sentence: str, known: Mapping[str, Sequence[str]]) -> Any:
    """A text as the name in it, or as the sentence spells it where that does not begin with it."""
    if not isinstance(value, str) or parameter is None or not _is_scalar(parameter, _TEXTS):
        return value
    within = _named(parameter, f" {normalized(value)} ", known)
    text = value.strip(_AROUND_TEXTS) or value
    if within or text in sentence:
        return within or text
    spelled = re.search(rf"(?<=\s){re.escape(text)}(?!\w)", sentence, re.IGNORECASE)
    return spelled[0] if spelled else text


def _named(parameter: Parameter, said: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """The one name that the sentence has, of those that the parameter may be; the longest, where one is in another."""
    source = (parameter.options_source or "").partition(":")[0]
    padded = {name: f" {normalized(name)} " for name in known.get(source, ()) if source in _KNOWN}
    names = {name: form for name, form in padded.items() if form in said}
    whole = [one for one, form in names.items() if not any(form in other != form for other in names.values())]
    return whole[0] if len(whole) == 1 else None
