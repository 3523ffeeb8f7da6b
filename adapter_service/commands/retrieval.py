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
# To offer fewer than all, one of them is left out. Two commands are together in at least one of the lists that are then
# left, and all sentences share these few lists, so that what they begin with is computed once.
PARTS = 3


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
        self, text: str, *, beside: Collection[str] = (), withheld: Collection[str] = ()
    ) -> tuple[Command, ...]:
        """At most MOST_CANDIDATES commands in the node's order, `beside` among them and none of `withheld`."""
        allowed = [place for place, one in enumerate(self._commands) if one.command_name not in withheld]
        if len(allowed) > MOST_CANDIDATES:
            scores = self._scores(text)
            # Of equal ones the first: a sentence of unknown words is offered the same ones every time.
            allowed.sort(key=lambda place: (self._commands[place].command_name not in beside, -scores[place], place))
            allowed = sorted(allowed[:MOST_CANDIDATES])
        return tuple(self._commands[place] for place in allowed)

    def part_without(self, names: Collection[str]) -> frozenset[str]:
        """The largest part that has none of two commands, or of one."""
        return max((part for part in self._parts if not part & set(names)), key=len, default=frozenset())

    def nearest(self, name: str) -> str | None:
        """The other command whose words are most like this one's; None where no word is."""
        place = next(place for place, one in enumerate(self._commands) if one.command_name == name)
        scores = self._scores(" ".join(self._documents[place]))
        others = [other for other in range(len(self._commands)) if other != place and scores[other] > 0]
        best = max(others, key=lambda other: scores[other], default=None)
        return None if best is None else self._commands[best].command_name

    def recall(self, labelled: Collection[tuple[str, str]]) -> float:
        """The share of sentences, each with its command's name, whose command is among their candidates."""
        found = sum(name in {command.command_name for command in self.candidates(text)} for text, name in labelled)
        return found / len(labelled) if labelled else 1.0

    @cached_property
    def _parts(self) -> Sequence[frozenset[str]]:
        """By hash: which commands are neighbours says nothing."""
        by_hash = sorted((one.command_name for one in self._commands), key=_hash)
        return [frozenset(by_hash[start::PARTS]) for start in range(PARTS)]

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


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
