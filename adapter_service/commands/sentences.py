"""Labelled sentences of a node's commands: what they are called with, and what they are not.

From the commands' own examples alone. Beside each command's examples there are LEAST_NEGATIVES to MOST_NEGATIVES
negatives: sentences of the commands that its antipatterns name, which are those commands' although this one is offered;
small talk, which is nobody's; and its own sentences while it is not offered. A negative has an answer like any other:
the other function, or that none fits.

What is held out is chosen before anything is made of a sentence, so that nothing of a held-out sentence, nor of one
that differs in case, blanks and punctuation alone, is ever learned. It is chosen by the sentence alone: what is held
out of one training is not learned in the next, whatever was added to the node between them. The one exception is a
command that would have no sentence to be judged by, or none to learn.

MOST_SENTENCES is the most that is learned of a node in all. Whoever adds to what is learned (variations) stops there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from adapter_service.commands.schema import Command, Example
from adapter_service.commands.words import normalized
from adapter_service.errors import NothingToLearnError
from adapter_service.samples import is_held_out

LEAST_NEGATIVES, MOST_NEGATIVES = 2, 5
MOST_SENTENCES = 2000
_OF_OTHERS, _OF_NOBODY = 3, 2
SMALL_TALK = (
    "Good morning", "How are you?", "Thank you very much", "That was funny", "What is your name?", "I am hungry",
    "Who wrote Hamlet?", "My knee hurts today", "Do you like jazz?", "Never mind", "Why is the sky blue?",
    "I will be right back", "You are not listening", "Is a tomato a fruit?", "We are going on holiday soon",
    "Say something nice", "I do not understand you", "How deep is the ocean?", "My sister has a new job", "Good night",
    "What do you think about art?", "The soup was too salty", "How old is the universe?", "I have lost my keys",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sentence:
    """`command_name` is None where no function fits. Of the functions offered `beside` is one, and `withheld` none."""

    text: str
    command_name: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    beside: str | None = None
    withheld: str | None = None

    @property
    def is_negative(self) -> bool:
        return self.command_name is None or self.beside is not None


@dataclass(frozen=True, slots=True)
class Dataset:
    """`repeated` are sentences that stood there before, `contradicting` those that stood there as something else."""

    training: tuple[Sentence, ...]
    holdout: tuple[Sentence, ...]
    repeated: int
    contradicting: tuple[str, ...]


def dataset_of(commands: Sequence[Command], *, holdout_fraction: float) -> Dataset:
    """Sentences in the commands' order; of every command with two or more some are held out, and some are not.

    At most MOST_SENTENCES are learned; where there were more, those commands lose some that have the most, their last.
    What is held out is all there is.

    Raises:
        NothingToLearnError: the commands contradict each other in every example.
    """
    examples, repeated, contradicting = _examples_of(commands)
    if not any(examples.values()):
        raise NothingToLearnError("no example is left that belongs to one command alone; say how the commands differ")
    learned, held = {}, {}
    for name, sentences in examples.items():
        apart = _held_out([one.text for one in sentences], holdout_fraction)
        learned[name] = [one for one in sentences if one.text not in apart]
        held[name] = [one for one in sentences if one.text in apart]
    # Room for every negative and for a sentence of each command, of which a node has 300 at most.
    learned = _evenly(learned, MOST_SENTENCES - MOST_NEGATIVES * len(commands))
    talk = _small_talk_beside(commands)
    talk_held = _held_out(talk, holdout_fraction)
    return Dataset(
        training=tuple(_with_negatives(commands, learned, [text for text in talk if text not in talk_held])),
        holdout=tuple(_with_negatives(commands, held, [text for text in talk if text in talk_held])),
        repeated=repeated,
        contradicting=contradicting,
    )


def _examples_of(commands: Sequence[Command]) -> tuple[dict[str, list[Sentence]], int, tuple[str, ...]]:
    """By command, each sentence once; one that several calls are expected of is none's."""
    found: dict[str, list[tuple[str, Example]]] = {}
    for command in commands:
        for example in command.examples:
            found.setdefault(normalized(example.voice_command), []).append((command.command_name, example))
    by_command: dict[str, list[Sentence]] = {command.command_name: [] for command in commands}
    repeated, contradicting = 0, []
    for (name, first), *others in found.values():
        expected = first.expected_parameters
        if any((other, example.expected_parameters) != (name, expected) for other, example in others):
            contradicting.append(first.voice_command)
        else:
            by_command[name].append(Sentence(first.voice_command, name, expected))
            repeated += len(others)
    return by_command, repeated, tuple(contradicting)


def _evenly(examples: Mapping[str, list[Sentence]], most: int) -> dict[str, list[Sentence]]:
    """At most so many in all, by taking from whoever has the most, but nobody's last."""
    each = max(map(len, examples.values()))
    while sum(min(len(sentences), each) for sentences in examples.values()) > most and each > 1:
        each -= 1
    return {name: sentences[:each] for name, sentences in examples.items()}


def _small_talk_beside(commands: Sequence[Command]) -> list[str]:
    """SMALL_TALK without what is an example or a keyword of a command, even one that is learned of none."""
    theirs = {
        normalized(text)
        for command in commands
        for text in (*command.keywords, *(example.voice_command for example in command.examples))
    }
    return [text for text in SMALL_TALK if normalized(text) not in theirs]


def _held_out(texts: Sequence[str], fraction: float) -> frozenset[str]:
    """Those whose hash lies below `fraction` of all hashes, whichever others there are.

    Of two or more at least the lowest; never all, the highest is learned.
    """
    keys = {text: _hash(normalized(text))[:16] for text in texts}
    count = sum(is_held_out(key, fraction) for key in keys.values())
    by_key = sorted(keys, key=lambda text: keys[text])
    return frozenset(by_key[: min(max(1, count), max(0, len(by_key) - 1))])


def _with_negatives(
    commands: Sequence[Command], examples: Mapping[str, Sequence[Sentence]], small_talk: Sequence[str]
) -> Iterator[Sentence]:
    talk = cycle(small_talk)
    for command in commands:
        own = examples[command.command_name]
        yield from own
        if own:
            yield from islice(_negatives_of(command, own, examples, talk), MOST_NEGATIVES)


def _negatives_of(
    command: Command, own: Sequence[Sentence], examples: Mapping[str, Sequence[Sentence]], talk: Iterable[str]
) -> Iterator[Sentence]:
    name = command.command_name
    named = dict.fromkeys(anti.command_name for anti in command.antipatterns if anti.command_name != name)
    of_others = [one for other in named for one in examples.get(other, ())]
    for one in sorted(of_others, key=lambda one: _hash(one.text + name))[:_OF_OTHERS]:
        yield Sentence(one.text, one.command_name, one.arguments, beside=name)
    for text in islice(talk, _OF_NOBODY):
        yield Sentence(text, None, beside=name)
    if len(examples) > 1:
        first = min(own, key=lambda one: _hash(one.text + name))
        yield Sentence(first.text, None, withheld=name)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
