"""Labelled sentences of a node's commands: what they are called with, and what they are not.

From the commands' own examples alone. Beside each command's examples there are LEAST_NEGATIVES to MOST_NEGATIVES
negatives: a sentence of a command that its antipatterns name or, without any, of the one most like it, which is that
command's although this one is offered; and small talk and requests that are nobody's. A negative has an answer like any
other: the other function, or that none fits.

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
from itertools import cycle, islice, zip_longest
from typing import Any

from adapter_service.commands.retrieval import Retriever
from adapter_service.commands.schema import Command, Example
from adapter_service.commands.words import normalized, words
from adapter_service.errors import NothingToLearnError
from adapter_service.samples import is_held_out

LEAST_NEGATIVES, MOST_NEGATIVES = 2, 5
MOST_SENTENCES = 2000
_OF_OTHERS, _OF_NOBODY = 1, 4
# A word of fewer letters says little of what a command is about.
_TELLING_LETTERS = 4
SMALL_TALK = (
    "Good morning", "How are you?", "Thank you very much", "That was funny", "What is your name?", "I am hungry",
    "Who wrote Hamlet?", "My knee hurts today", "Do you like jazz?", "Never mind", "Why is the sky blue?",
    "I will be right back", "You are not listening", "Is a tomato a fruit?", "We are going on holiday soon",
    "Say something nice", "I do not understand you", "How deep is the ocean?", "My sister has a new job", "Good night",
    "What do you think about art?", "The soup was too salty", "How old is the universe?", "I have lost my keys",
    "Can you hear me?", "This is my brother Tom", "I did not mean you", "Where do penguins live?", "You are right",
    "It was a long day", "How many legs does a spider have?", "I had a strange dream", "What does that mean?",
    "Nobody asked you", "The neighbours are nice people", "Who is the president of France?", "I love you",
)  # fmt: skip
# What a node may be asked for and cannot do; left out where a command is about the same words.
REQUESTS = (
    "Call my mother", "Book a flight to Berlin", "Translate this into French", "Order a taxi for me", "Tell me a joke",
    "Send a message to my boss", "Feed the cat", "Open the garage door", "Where is my phone?", "Lock the front door",
    "What is twelve times eight?", "Read me the news", "Vacuum the carpet", "Take a photo", "Close the window blinds",
    "How much is a litre of petrol?", "Find a recipe for lasagne", "Switch to the sports channel",
    "Start the dishwasher", "Who won the match yesterday?", "Show me the camera at the door", "Water the garden",
    "Navigate to the airport", "Convert five miles to kilometres", "Reserve a table for two", "Print this page",
    "Transfer fifty euros to Paul",
)  # fmt: skip

NOTHING_TAUGHT = "no example is left that belongs to one command alone; say how the commands differ"


@dataclass(frozen=True, slots=True)
class Sentence:
    """`command_name` is None where no function fits. Of the functions offered `beside` is one."""

    text: str
    command_name: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    beside: str | None = None

    @property
    def is_negative(self) -> bool:
        return self.command_name is None or self.beside is not None

    @property
    def counted_by(self) -> str:
        """The command whose sentence it is, or, of a negative, the one that it is told apart from."""
        return self.beside or self.command_name or ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`repeated` are sentences that stood there before, `contradicting` those that stood there as something else."""

    training: tuple[Sentence, ...]
    holdout: tuple[Sentence, ...]
    repeated: int
    contradicting: tuple[str, ...]


def teaches_anything(commands: Sequence[Command]) -> bool:
    """Whether an example is left that the commands do not contradict each other in."""
    return any(_examples_of(commands)[0].values())


def dataset_of(commands: Sequence[Command], *, holdout_fraction: float) -> Dataset:
    """Sentences in the commands' order; of every command with two or more some are held out, and some are not.

    At most MOST_SENTENCES are learned; where there were more, those commands lose some that have the most, their last.
    What is held out is all there is.

    Raises:
        NothingToLearnError: the commands contradict each other in every example.
    """
    examples, repeated, contradicting = _examples_of(commands)
    if not any(examples.values()):
        raise NothingToLearnError(NOTHING_TAUGHT)
    learned, held = {}, {}
    for name, sentences in examples.items():
        apart = _held_out([one.text for one in sentences], holdout_fraction)
        learned[name] = [one for one in sentences if one.text not in apart]
        held[name] = [one for one in sentences if one.text in apart]
    # Room for every negative and for a sentence of each command, of which a node has 300 at most.
    learned = _evenly(learned, MOST_SENTENCES - MOST_NEGATIVES * len(commands))
    talk = _talk_beside(commands)
    retriever = Retriever(commands, {name: [one.text for one in sentences] for name, sentences in learned.items()})
    talk_held = _held_out(talk, holdout_fraction)
    talk_learned, talk_judged = ([text for text in talk if (text in talk_held) is held] for held in (False, True))
    # Talk that is said again is learned at another moment; judged again, it would count as two.
    endless, judged = cycle(talk_learned), sum(map(bool, held.values()))
    to_learn = (list(islice(endless, _OF_NOBODY)) for _ in commands)
    to_judge = (talk_judged[place::judged][:_OF_NOBODY] for place in range(judged))
    return Dataset(
        training=tuple(_with_negatives(commands, retriever, learned, to_learn)),
        holdout=tuple(_with_negatives(commands, retriever, held, to_judge)),
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


def _talk_beside(commands: Sequence[Command]) -> list[str]:
    """SMALL_TALK without what is an example or a keyword of a command, even one that is learned of none; and REQUESTS.

    One after the other, as few are learned of a small node.
    """
    theirs = {
        normalized(text)
        for command in commands
        for text in (*command.keywords, *(example.voice_command for example in command.examples))
    }
    telling = {word for command in commands for text in _about(command) for word in words(text)}
    telling = {word for word in telling if len(word) >= _TELLING_LETTERS}
    talk = [text for text in SMALL_TALK if normalized(text) not in theirs]
    requests = [text for text in REQUESTS if normalized(text) not in theirs and telling.isdisjoint(words(text))]
    return [text for both in zip_longest(talk, requests) for text in both if text is not None]


def _about(command: Command) -> Iterator[str]:
    yield from (command.command_name, command.description, *command.keywords)
    yield from (f"{one.name} {one.description}" for one in command.parameters)


def _held_out(texts: Sequence[str], fraction: float) -> frozenset[str]:
    """Those whose hash lies below `fraction` of all hashes, whichever others there are.

    Of two or more at least the lowest; never all, the highest is learned.
    """
    keys = {text: _hash(normalized(text))[:16] for text in texts}
    count = sum(is_held_out(key, fraction) for key in keys.values())
    by_key = sorted(keys, key=lambda text: keys[text])
    return frozenset(by_key[: min(max(1, count), max(0, len(by_key) - 1))])


def _with_negatives(
    commands: Sequence[Command],
    retriever: Retriever,
    examples: Mapping[str, Sequence[Sentence]],
    talk: Iterator[Sequence[str]],
) -> Iterator[Sentence]:
    """`talk` has for each command with examples what is beside it."""
    for command in commands:
        own = examples[command.command_name]
        yield from own
        if own:
            yield from _of_others(command, retriever, examples)
            yield from (Sentence(text, None, beside=command.command_name) for text in next(talk))


def _of_others(
    command: Command, retriever: Retriever, examples: Mapping[str, Sequence[Sentence]]
) -> Iterator[Sentence]:
    name = command.command_name

    def chosen(sentences: Iterable[Sentence], most: int) -> list[Sentence]:
        return sorted(sentences, key=lambda one: _hash(one.text + name))[:most]

    named = dict.fromkeys(anti.command_name for anti in command.antipatterns if anti.command_name != name)
    alike = [other for other in named if examples.get(other)]
    if not alike and (nearest := retriever.nearest(name)):
        alike = [nearest]
    for one in chosen((one for other in alike for one in examples[other]), _OF_OTHERS):
        yield Sentence(one.text, one.command_name, one.arguments, beside=name)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
