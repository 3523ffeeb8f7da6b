"""A node's sentences as samples to train on and to judge by: prompt, sentence, and the answer that is right."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from adapter_service.commands.prompting import NONE_FITS, Context, call_text, prompt_of
from adapter_service.commands.retrieval import Retriever
from adapter_service.commands.schema import Command
from adapter_service.commands.sentences import Sentence
from adapter_service.samples import Message, Sample

_FIRST_DAY, _DAYS = datetime(2025, 1, 1, tzinfo=UTC), 1461
# As few as will do: samples that are said at one moment begin alike, up to the sentence, which is computed once.
MOMENTS = 4


def samples_of(
    sentences: Sequence[Sentence], retriever: Retriever, zone: ZoneInfo, *, rooms: tuple[str, ...] = ()
) -> list[Sample]:
    """One for each sentence, in their order.

    They are said at MOMENTS moments, the same every time, so that no date is learned by heart; at every other one the
    `rooms` are known. A sentence that is there several times is said at as many of them, and no more often.
    """
    moments = [_moment_of(f"moment {number}", zone) for number in range(MOMENTS)]
    samples: dict[str, Sample] = {}
    again: Counter[tuple[str, str | None]] = Counter()
    for sentence in sentences:
        same = (sentence.text, sentence.beside if sentence.command_name else None)
        number = (_number_of(sentence.text) + again[same]) % MOMENTS
        again[same] += 1
        prompt = prompted(sentence, retriever, Context(moments[number], rooms if number % 2 else ()))
        answer = call_text(sentence.command_name, sentence.arguments) if sentence.command_name else NONE_FITS
        sample = Sample((*prompt, Message("assistant", answer)), metadata={"command": sentence.command_name})
        samples.setdefault(sample.key, sample)
    return list(samples.values())


def judged_in(
    sentence: Sentence, retriever: Retriever, zone: ZoneInfo, *, rooms: tuple[str, ...] = ()
) -> list[Message]:
    """What stands before the answer to a held-out sentence: it is said at a moment that nothing was learned at."""
    knows_rooms = _number_of(sentence.text) % 2
    return [*prompted(sentence, retriever, Context(_moment_of(sentence.text, zone), rooms if knows_rooms else ()))]


def prompted(sentence: Sentence, retriever: Retriever, context: Context) -> tuple[Message, Message]:
    """What stands before the answer to `sentence`.

    What another command's sentence is learned beside is offered fewer than all: with the same functions before it, it
    would be the sample that its own command has already.
    """
    return prompt_of(offered_to(sentence, retriever), sentence.text, context)


def offered_to(sentence: Sentence, retriever: Retriever) -> tuple[Command, ...]:
    """The functions that stand before `sentence`."""
    beside = [name for name in (sentence.command_name, sentence.beside) if name]
    is_anothers = sentence.command_name and sentence.beside
    withheld = retriever.part_without(beside) if is_anothers else frozenset[str]()
    return retriever.candidates(sentence.text, beside=beside, withheld=withheld)


def _moment_of(text: str, zone: ZoneInfo) -> datetime:
    return (_FIRST_DAY + timedelta(minutes=_number_of(text) % (_DAYS * 24 * 60))).astimezone(zone)


def _number_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
