"""Many conversations answered together, for evaluation: by the arithmetic that serves, in a batch of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adapter_service.engine.requests import Sampling
from adapter_service.engine.turn import Turn
from adapter_service.samples import Message

if TYPE_CHECKING:
    import torch

    from adapter_service.engine.answer import Answer
    from adapter_service.engine.batch import Batch
    from adapter_service.engine.sequence import Sequence as Tokens
    from adapter_service.lora.adapter import Adapter
    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.model_utils import BaseModel

# Answers that grow at a time.
ROWS = 32


def answer_together(
    turn: Turn, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling], adapter: Adapter | None
) -> list[str]:
    """An answer to each conversation, by its sampling, in their order.

    `turn.pause` is called at every layer, of prompts and of steps; what it raises ends them all.
    """
    from adapter_service.base_models.pauses import pausing
    from adapter_service.lora.resident import ResidentAdapter

    base, ends = turn.base, turn.renderer.end_ids
    resident = ResidentAdapter.of("evaluated", adapter, base.adapter_dtype, base.device) if adapter else None
    prompts = [turn.renderer.prompt_ids(messages) for messages in conversations]
    samplings = [replace(sampling, extra_eos_ids=sampling.extra_eos_ids | ends) for sampling in samplings]
    with pausing(turn.pause):
        answers = answer_all(base, turn.new_batch(ROWS), prompts, samplings, resident)
    return [answer.choice.text.strip() for answer in answers if answer.choice is not None]


def answer_all(
    base: BaseModel,
    batch: Batch,
    prompts: Sequence[list[int]],
    samplings: Sequence[Sampling],
    adapter: ResidentAdapter | None = None,
) -> list[Answer]:
    """An answer to each prompt, in their order; as soon as one has ended, the next takes its place in the batch."""
    import torch

    from adapter_service.engine.answer import Answer
    from adapter_service.engine.batch import read_whole
    from adapter_service.engine.sequence import Sequence as Tokens

    answers: list[Answer] = []
    growing: dict[Tokens, Answer] = {}

    def take(answer: Answer, logits: torch.Tensor) -> None:
        if not answer.take(logits):
            batch.remove(answer.sequence)
            del growing[answer.sequence]

    with torch.inference_mode():
        while growing or len(answers) < len(prompts):
            if len(growing) < ROWS and len(answers) < len(prompts):
                prompt, sampling = prompts[len(answers)], samplings[len(answers)]
                sequence = Tokens(prompt, len(prompt) + sampling.max_new_tokens, adapter)
                answers.append(Answer(base, sequence, sampling, 0, lambda _: None))
                growing[sequence] = answers[-1]
                take(answers[-1], read_whole(batch, sequence))
                if sequence in growing:
                    batch.join(sequence)
            else:
                for sequence, logits in batch.step():
                    take(growing[sequence], logits)
    return answers
