"""A node's sentences as samples to train on and to judge by: prompt, sentence, and the answer that is right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from adapter_service.commands.prompting import NONE_FITS, Context, call_text, prompt_of
from adapter_service.commands.retrieval import Retriever
from adapter_service.commands.sentences import Sentence
from adapter_service.samples import Message, Sample

_FIRST_DAY, _DAYS = datetime(2025, 1, 1, tzinfo=UTC), 1461


def samples_of(
    sentences: Sequence[Sentence], retriever: Retriever, zone: ZoneInfo, *, rooms: tuple[str, ...] = ()
) -> list[Sample]:
    """One for each sentence, equal ones once, in their order.

    Each is said at a moment of its own, the same every time, so that no date is learned by heart. What is learned
    beside another command is offered fewer than all: with the same functions before it, it would be the sample that
    its own command has already.
    """
    samples: dict[str, Sample] = {}
    for sentence in sentences:
        offered = retriever.candidates(
            sentence.text,
            beside=[name for name in (sentence.command_name, sentence.beside) if name],
            withheld=[sentence.withheld] if sentence.withheld else [],
            drawn=f"{sentence.text}\n{sentence.beside}" if sentence.beside else None,
        )
        context = Context(_moment_of(sentence.text).astimezone(zone), rooms)
        prompt = prompt_of(offered, sentence.text, context)
        answer = call_text(sentence.command_name, sentence.arguments) if sentence.command_name else NONE_FITS
        sample = Sample((*prompt, Message("assistant", answer)), metadata={"command": sentence.command_name})
        samples.setdefault(sample.key, sample)
    return list(samples.values())


def _moment_of(text: str) -> datetime:
    number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
    return _FIRST_DAY + timedelta(minutes=number % (_DAYS * 24 * 60))
