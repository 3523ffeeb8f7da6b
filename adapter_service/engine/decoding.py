"""Token by token through the base, for one sequence or a batch of them, on transformers' modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from adapter_service.engine.generations import TokenTrail
from adapter_service.engine.requests import Sampling
from adapter_service.engine.sampling import TokenChooser
from adapter_service.model_utils import BaseModel

_ROWS_FOR_ONE_THREAD = 8


def decode(
    base: BaseModel, prompt_ids: Sequence[int], sampling: Sampling, trail: TokenTrail | None = None
) -> Iterator[int]:
    """Yield the answer's tokens, without the end token; the adapter in use applies. `trail` gets all of them."""
    for _, token in decode_batch(base, [prompt_ids], [sampling], trails=[trail]):
        yield token


@torch.inference_mode()
def decode_batch(
    base: BaseModel,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    pause: Callable[[], None] = lambda: None,
    trails: Sequence[TokenTrail | None] | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield (index of the prompt, token) in the order they are decoded; each prompt has a sampling of its own.

    Prompts are padded on the left; a sequence that ends leaves the batch, so that what is paid for
    is the sequences still running. `pause` is called between two steps. The trails, one for each
    prompt, get every choice with its log-probabilities, before it is yielded.
    """
    from transformers import DynamicCache

    ends = [base.eos_ids() | sampling.extra_eos_ids for sampling in samplings]
    choosers = [
        TokenChooser(sampling, eos, trail, _foreign(base, sampling))
        for sampling, eos, trail in zip(samplings, ends, trails or [None] * len(prompts), strict=True)
    ]
    answers: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    tokens, mask = _padded(prompts, base.device)
    cache = DynamicCache(config=base.model.config)
    padded = bool((mask == 0).any())
    for number in range(max(sampling.max_new_tokens for sampling in samplings)):
        with _threads_for(len(running), prefill=number == 0):
            logits = _step(base.model, tokens, mask, cache, padded=padded)
        chosen = [choosers[index].choose(logits[row], answers[index]) for row, index in enumerate(running)]
        for index, token in zip(running, chosen, strict=True):
            if token not in ends[index]:
                answers[index].append(token)
                yield index, token
        kept = [
            row
            for row, (index, token) in enumerate(zip(running, chosen, strict=True))
            if token not in ends[index] and len(answers[index]) < samplings[index].max_new_tokens
        ]
        if not kept:
            return
        if len(kept) < len(running):
            rows = torch.tensor(kept, device=base.device)
            cache.batch_select_indices(rows)
            mask, running = mask[rows], [running[row] for row in kept]
        tokens = torch.tensor([[chosen[row]] for row in kept], device=base.device)
        mask = torch.cat([mask, mask.new_ones(len(kept), 1)], dim=1)
        pause()


def _foreign(base: BaseModel, sampling: Sampling) -> torch.Tensor | None:
    if sampling.script is None or not sampling.foreign_script_penalty:
        return None
    vocabulary = base.model.get_output_embeddings().weight.shape[0]
    return base.token_scripts.foreign(sampling.script, vocabulary, base.device)


@contextmanager
def _threads_for(rows: int, *, prefill: bool) -> Iterator[None]:
    """One thread for the small products of decoding; all of them for a prompt or a large batch.

    A product of one row takes 145 µs on one thread and 175 on two: waking the second costs more
    than it does. Only the engine's thread computes, so that the setting, which is the process's, is its own.
    """
    before = torch.get_num_threads()
    if not prefill and rows <= _ROWS_FOR_ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both (batch, longest), padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)


def _step(model: Any, tokens: torch.Tensor, mask: torch.Tensor, cache: Any, *, padded: bool) -> torch.Tensor:
    """Logits (batch, vocabulary) of what follows `tokens` (batch, new)."""
    positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
    output = model(
        input_ids=tokens,
        attention_mask=mask if padded else None,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits
