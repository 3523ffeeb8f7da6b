"""Which of a node's many commands a sentence may mean: BM25 over what is known of each.

A prompt has room for few functions, so of more than MOST_CANDIDATES the likeliest are offered, in training and when a
sentence is routed alike. In training the right one is always among them; how often it would have been anyway is the
retriever's recall, which is the most that routing can reach.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from adapter_service.commands.schema import Command
from adapter_service.commands.words import words

MOST_CANDIDATES = 16


class Retriever:
    """Of `commands`; `sentences` are those known to be of each, by its name: what is learned, nothing held out."""

    def __init__(self, commands: Sequence[Command], sentences: Mapping[str, Iterable[str]]) -> None:
        self._commands = commands
        self._documents = [
            [word for text in [*_known_of(command), *sentences.get(command.command_name, ())] for word in words(text)]
            for command in commands
        ]
        self._vocabulary = {word for document in self._documents for word in document}

    def candidates(
        self, text: str, *, beside: Collection[str] = (), withheld: Collection[str] = (), drawn: str | None = None
    ) -> tuple[Command, ...]:
        """At most MOST_CANDIDATES commands in the node's order, `beside` among them and none of `withheld`.

        With `drawn` they are of `beside` and half of the others: those that its hash chooses, whatever `text` is.
        """
        allowed = [place for place, one in enumerate(self._commands) if one.command_name not in withheld]
        if drawn is not None:
            allowed = self._half_of(allowed, beside, drawn)
        if len(allowed) > MOST_CANDIDATES:
            scores = self._scores(text)
            # Of equal ones the first: a sentence of unknown words is offered the same ones every time.
            allowed.sort(key=lambda place: (self._commands[place].command_name not in beside, -scores[place], place))
            allowed = sorted(allowed[:MOST_CANDIDATES])
        return tuple(self._commands[place] for place in allowed)

    def recall(self, labelled: Collection[tuple[str, str]]) -> float:
        """The share of sentences, each with its command's name, whose command is among their candidates."""
        found = sum(name in {command.command_name for command in self.candidates(text)} for text, name in labelled)
        return found / len(labelled) if labelled else 1.0

    def _half_of(self, places: Sequence[int], beside: Collection[str], drawn: str) -> list[int]:
        others = {place: self._commands[place].command_name for place in places}
        others = {place: name for place, name in others.items() if name not in beside}
        by_hash = sorted(others, key=lambda place: hashlib.sha256(f"{drawn}\n{others[place]}".encode()).digest())
        left_out = set(by_hash[len(by_hash) // 2 :])
        return [place for place in places if place not in left_out]

    def _scores(self, text: str) -> Sequence[float]:
        known = [word for word in words(text) if word in self._vocabulary]
        if not known:
            return [0.0] * len(self._commands)
        scores: Sequence[float] = self._index.get_scores(known).tolist()
        return scores

    @cached_property
    def _index(self) -> Any:
        """Only to be asked for where there are words: bm25s has no index of none."""
        import bm25s

        index = bm25s.BM25()
        index.index(self._documents, show_progress=False)
        return index


def _known_of(command: Command) -> list[str]:
    named = [command.command_name, command.description, *command.keywords]
    return [*named, *(f"{one.name} {one.description}" for one in command.parameters)]
