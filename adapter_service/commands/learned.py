"""What is learned of a node's commands: its sentences, the retriever that knows them, the rooms that they name.

An adapter is taught by it, and its node's sentences are routed by it. Nothing that is held out is known to either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adapter_service.commands.retrieval import Retriever
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import Dataset, Sentence, dataset_of


@dataclass(frozen=True, slots=True)
class Learned:
    """`rooms` are those that learned sentences are called with: all rooms that are known of a home without being told.

    A room of a held-out sentence alone is none, else it would be filled in where that sentence is judged.
    """

    dataset: Dataset
    retriever: Retriever
    rooms: tuple[str, ...]

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Sentences and their commands' names; no negative."""
        return [
            (one.text, one.command_name) for one in self.dataset.training if one.command_name and not one.is_negative
        ]


def learned_of(commands: Sequence[Command], holdout_fraction: float) -> Learned:
    """The same for the same commands and fraction.

    Raises:
        NothingToLearnError: the commands contradict each other in every example.
    """
    dataset = dataset_of(commands, holdout_fraction=holdout_fraction)
    own: dict[str, list[Sentence]] = {}
    for one in dataset.training:
        if one.command_name and not one.is_negative:
            own.setdefault(one.command_name, []).append(one)
    texts = {name: [one.text for one in sentences] for name, sentences in own.items()}
    rooms = (room for one in commands for room in _rooms_in(own.get(one.command_name, ()), one))
    return Learned(dataset, Retriever(commands, texts), tuple(dict.fromkeys(rooms)))


def _rooms_in(sentences: Iterable[Sentence], command: Command) -> Iterable[str]:
    for one in sentences:
        for name, value in one.arguments.items():
            parameter = command.parameter(name)
            if parameter is not None and parameter.options_source == "rooms":
                yield str(value)
