"""All that an adapter of a node's commands is taught, and all that it is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.commands.retrieval import Retriever
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import Sentence, dataset_of
from adapter_service.commands.training_samples import judged_in, rooms_of, samples_of
from adapter_service.commands.variations import varied
from adapter_service.samples import Message, Sample

# Of every sentence, with other values in it.
VARIATIONS = 2


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A sentence that is not learned, and the answer that is right: a call, or none where `command_name` is None.

    `counted_by` is the command whose table it is in: a negative is one of the command that it is told apart from.
    """

    messages: tuple[Message, ...]
    sentence: str
    command_name: str | None
    arguments: Mapping[str, Any]
    is_negative: bool
    counted_by: str


@dataclass(frozen=True, slots=True)
class Curriculum:
    """`recall` is the retriever's, on held-out sentences: the most that routing can reach.

    `repeated` and `contradicting` are as in `sentences.Dataset`.
    """

    training: tuple[Sample, ...]
    holdout: tuple[HeldOut, ...]
    recall: float
    repeated: int
    contradicting: tuple[str, ...]


def curriculum_of(commands: Sequence[Command], zone: ZoneInfo, *, holdout_fraction: float) -> Curriculum:
    """The same for the same commands, zone and fraction.

    Raises:
        NothingToLearnError: the commands contradict each other in every example.
    """
    dataset = dataset_of(commands, holdout_fraction=holdout_fraction)
    apart = [*(one.text for one in dataset.holdout), *dataset.contradicting]
    learned = [*dataset.training, *varied(dataset.training, commands, each=VARIATIONS, without=apart)]
    retriever, rooms = Retriever(commands, _texts_of(dataset.training)), rooms_of(commands)
    calls = [(one.text, one.command_name) for one in dataset.holdout if one.command_name and not one.is_negative]
    return Curriculum(
        training=tuple(samples_of(learned, retriever, zone, rooms=rooms)),
        holdout=tuple(
            HeldOut(
                messages=tuple(judged_in(one, retriever, zone, rooms=rooms)),
                sentence=one.text,
                command_name=one.command_name,
                arguments=one.arguments,
                is_negative=one.is_negative,
                counted_by=one.counted_by,
            )
            for one in dataset.holdout
        ),
        recall=retriever.recall(calls),
        repeated=dataset.repeated,
        contradicting=dataset.contradicting,
    )


def _texts_of(sentences: Iterable[Sentence]) -> dict[str, list[str]]:
    """By command: of those that are its own."""
    texts: dict[str, list[str]] = {}
    for one in sentences:
        if one.command_name and not one.is_negative:
            texts.setdefault(one.command_name, []).append(one.text)
    return texts
