"""Many conversations answered together, for evaluation: batches that leave room for requests in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adapter_service.engine.engine import Turn
from adapter_service.engine.requests import Sampling
from adapter_service.samples import Message

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter

# Padded prompt tokens of one batch: a request waits for one layer of so many.
_PREFILL_TOKENS = 2048


def answer_together(
    turn: Turn, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling], adapter: Adapter | None
) -> list[str]:
    """An answer to each conversation, by its sampling, in their order.

    `turn.pause` is called at every layer, of prompts and of steps; what it raises ends them all.
    """
    from adapter_service.base_models.pauses import pausing
    from adapter_service.engine.decoding import decode_batch
    from adapter_service.lora.layer import using

    ends = turn.renderer.end_ids
    samplings = [replace(sampling, extra_eos_ids=sampling.extra_eos_ids | ends) for sampling in samplings]
    prompts = [turn.renderer.prompt_ids(messages) for messages in conversations]
    tokens: list[list[int]] = [[] for _ in prompts]
    with using(adapter), pausing(turn.pause):
        for batch in _batches([len(prompt) for prompt in prompts]):
            together = [prompts[index] for index in batch], [samplings[index] for index in batch]
            for place, token in decode_batch(turn.base, *together):
                tokens[batch[place]].append(token)
    return [turn.base.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in tokens]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in groups of like length, each within `_PREFILL_TOKENS` when padded, or alone."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and lengths[index] * (len(batch) + 1) > _PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
