"""All that an adapter of a node's commands is taught, and all that it is judged by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.commands.grounding import Grounding
from adapter_service.commands.learned import learned_of
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import MOST_SENTENCES, Sentence
from adapter_service.commands.training_samples import judged_in, offered_to, samples_of
from adapter_service.commands.variations import variations_of
from adapter_service.samples import Message, Sample

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

    `rooms` and `calls` are as in `Learned`, `repeated` and `contradicting` as in `sentences.Dataset`.
    """

    training: tuple[Sample, ...]
    holdout: tuple[HeldOut, ...]
    recall: float
    repeated: int
    contradicting: tuple[str, ...]
    rooms: tuple[str, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    grounding: Grounding | None = field(default=None, compare=False)


def curriculum_of(
    commands: Sequence[Command],
    zone: ZoneInfo,
    *,
    holdout_fraction: float,
    variations: int,
    known: Collection[str] = (),
) -> Curriculum:
    """The same for the same commands, zone, fraction, variations and `known` commands.

    Of every sentence of a command there are so many `variations`, with other values in it. One without values to
    exchange is learned as often as it stands, at other moments: else what may be left out of a call would be in most
    of what is learned, and be made up.

    What is `known` was learned before, by the adapter that goes on: of its sentences every other is learned once more,
    so that it is not forgotten, and none in variations. All are judged.

    Raises:
        NothingToLearnError: the commands contradict each other in every example.
    """
    learned = learned_of(commands, holdout_fraction)
    dataset, retriever, rooms = learned.dataset, learned.retriever, learned.rooms
    apart = [*(one.text for one in dataset.holdout), *dataset.contradicting]
    others = variations_of(dataset.training, commands, each=variations, without=apart)
    once = [one for one in dataset.training if one.counted_by in known]
    anew = [one for one in dataset.training if one.counted_by not in known]
    taught = islice((*_rounds(anew, others, variations), *once[::2]), MOST_SENTENCES)
    calls = [(one.text, one.command_name) for one in dataset.holdout if one.command_name and not one.is_negative]
    return Curriculum(
        training=tuple(samples_of(list(taught), retriever, zone, rooms=rooms)),
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
        rooms=rooms,
        calls=tuple(learned.calls),
        grounding=Grounding.of(commands, dataset.training),
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
