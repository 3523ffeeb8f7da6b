"""How likely the steps that answer find given texts, token by token: for what rounds weights, only they tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapter_service.engine.answering import ROWS
from adapter_service.engine.turn import Turn

if TYPE_CHECKING:
    import torch

    from adapter_service.engine.sequence import Sequence as Tokens
    from adapter_service.lora.adapter import Adapter
    from adapter_service.rendering import RenderedSample


def score_together(turn: Turn, samples: Sequence[RenderedSample], adapter: Adapter | None) -> list[float]:
    """The summed loss, in nats, of each sample's completion; what is before it is read as a prompt is.

    `turn.pause` is called at every layer, of prompts and of steps; what it raises ends them all.
    """
    import torch

    from adapter_service.base_models.pauses import pausing
    from adapter_service.engine.batch import read_whole
    from adapter_service.engine.sequence import Sequence as Tokens
    from adapter_service.lora.resident import ResidentAdapter

    base, batch = turn.base, turn.new_batch(ROWS)
    resident = ResidentAdapter.of("scored", adapter, base.adapter_dtype, base.device) if adapter else None
    sums = [0.0] * len(samples)
    growing: dict[Tokens, tuple[int, int]] = {}  # which sample, and how many of its tokens have been scored
    begun = 0

    def take(tokens: Tokens, logits: torch.Tensor) -> None:
        number, place = growing[tokens]
        sample = samples[number]
        token, wide = sample.ids[sample.completion_start + place], logits.float()
        sums[number] += float(wide.logsumexp(-1) - wide[token])
        tokens.next_token = token
        growing[tokens] = number, place + 1
        if place + 1 == sample.completion_tokens:
            batch.remove(tokens)
            del growing[tokens]

    with pausing(turn.pause), torch.inference_mode():
        while growing or begun < len(samples):
            if len(growing) < ROWS and begun < len(samples):
                ids, start = samples[begun].ids, samples[begun].completion_start
                tokens = Tokens(list(ids[:start]), len(ids), resident)
                growing[tokens] = begun, 0
                begun += 1
                take(tokens, read_whole(batch, tokens))
                if tokens in growing:
                    batch.join(tokens)
            else:
                for tokens, logits in batch.step():
                    take(tokens, logits)
    return sums
