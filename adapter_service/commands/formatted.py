"""A hub's own prompts and completions, learned as they are, and judged by the calls in those that are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from adapter_service.commands.curriculum import Curriculum, HeldOut
from adapter_service.commands.words import normalized
from adapter_service.samples import Message, Sample, is_held_out


def formatted_curriculum(examples: Sequence[Mapping[str, Any]], *, holdout_fraction: float) -> Curriculum:
    """Of the examples of an envelope (`queued_training`), equal prompts once, the first of them.

    The side of a sentence follows from the sentence alone, in whichever prompts it stands; of two or more at least one
    is held out, and at least one is learned.
    """
    by_prompt: dict[tuple[str, str], Mapping[str, Any]] = {}
    contradicting = []
    for example in examples:
        first = by_prompt.setdefault((example["system"], example["prompt"]), example)
        if first["completion"] != example["completion"]:
            contradicting.append(str(example["sentence"]))
    kept = sorted(by_prompt.values(), key=_key)
    keys = sorted({_key(example) for example in kept})
    count = sum(is_held_out(key, holdout_fraction) for key in keys)
    apart = frozenset(keys[: min(max(1, count), len(keys) - 1)])
    learned = [one for one in kept if _key(one) not in apart]
    return Curriculum(
        training=tuple(Sample((*_prompt(one), Message("assistant", one["completion"]))) for one in learned),
        holdout=tuple(_held_out(one) for one in kept if _key(one) in apart),
        recall=1.0,
        repeated=len(examples) - len(kept) - len(contradicting),
        contradicting=tuple(contradicting),
    )


def _key(example: Mapping[str, Any]) -> str:
    return hashlib.sha256(normalized(example["sentence"]).encode()).hexdigest()[:16]


def _prompt(example: Mapping[str, Any]) -> tuple[Message, ...]:
    system = (Message("system", example["system"]),) if example["system"] else ()
    return (*system, Message("user", example["prompt"]))


def _held_out(example: Mapping[str, Any]) -> HeldOut:
    return HeldOut(
        messages=_prompt(example),
        sentence=example["sentence"],
        command_name=example["name"],
        arguments=example["arguments"],
        is_negative=False,
        counted_by=example["name"],
    )
