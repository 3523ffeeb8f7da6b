"""All that an adapter of a node's commands is taught, and all that it is judged by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.commands.retrieval import Retriever
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import MOST_SENTENCES, Sentence, dataset_of
from adapter_service.commands.training_samples import judged_in, offered_to, rooms_of, samples_of
from adapter_service.commands.variations import variations_of
from adapter_service.samples import Message, Sample

# Of every sentence of a command, with other values in it. One without values to exchange is learned as often as it
# stands, at other moments: else what may be left out of a call would be in most of what is learned, and be made up.
VARIATIONS = 2
# So often more is a negative learned. They are few, and that none fits is said in few tokens.
NEGATIVES_AGAIN = 3


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A sentence that is not learned, and the answer that is right: a call, or none where `command_name` is None.

    `offered` are the commands that its prompt has, none where a hub made the prompt.
    `counted_by` is the command whose table it is in: a negative is one of the command that it is told apart from.
    """

    messages: tuple[Message, ...]
    sentence: str
    command_name: str | None
    arguments: Mapping[str, Any]
    is_negative: bool
    counted_by: str
    offered: tuple[Command, ...] = ()


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


def curriculum_of(
    commands: Sequence[Command],
    zone: ZoneInfo,
    *,
    holdout_fraction: float,
    variations: int = VARIATIONS,
    known: Collection[str] = (),
) -> Curriculum:
    """The same for the same commands, zone, fraction, variations and `known` commands.

    What is `known` was learned before, by the adapter that goes on: of its sentences every other is learned once more,
    so that it is not forgotten, and none in variations. All are judged.

    Raises:
        NothingToLearnError: the commands contradict each other in every example.
    """
    dataset = dataset_of(commands, holdout_fraction=holdout_fraction)
    apart = [*(one.text for one in dataset.holdout), *dataset.contradicting]
    others = variations_of(dataset.training, commands, each=variations, without=apart)
    once = [one for one in dataset.training if one.counted_by in known]
    anew = [one for one in dataset.training if one.counted_by not in known]
    learned = islice((*_rounds(anew, others, variations), *once[::2]), MOST_SENTENCES)
    retriever, rooms = Retriever(commands, _texts_of(dataset.training)), rooms_of(commands)
    calls = [(one.text, one.command_name) for one in dataset.holdout if one.command_name and not one.is_negative]
    return Curriculum(
        training=tuple(samples_of(list(learned), retriever, zone, rooms=rooms)),
        holdout=tuple(
            HeldOut(
                messages=tuple(judged_in(one, retriever, zone, rooms=rooms)),
                sentence=one.text,
                command_name=one.command_name,
                arguments=one.arguments,
                is_negative=one.is_negative,
                counted_by=one.counted_by,
                offered=offered_to(one, retriever),
            )
            for one in dataset.holdout
        ),
        recall=retriever.recall(calls),
        repeated=dataset.repeated,
        contradicting=dataset.contradicting,
    )


def _rounds(
    sentences: Sequence[Sentence], others: Mapping[str, Sequence[Sentence]], variations: int
) -> Iterator[Sentence]:
    """All sentences; then, round by round, one of the `others` of each, or it once more."""
    yield from sentences
    for number in range(max(variations, NEGATIVES_AGAIN)):
        for one in sentences:
            if number < (NEGATIVES_AGAIN if one.is_negative else variations):
                mine = () if one.is_negative else others[one.text]
                yield mine[number] if number < len(mine) else one


def _texts_of(sentences: Iterable[Sentence]) -> dict[str, list[str]]:
    """By command: of those that are its own."""
    texts: dict[str, list[str]] = {}
    for one in sentences:
        if one.command_name and not one.is_negative:
            texts.setdefault(one.command_name, []).append(one.text)
    return texts
