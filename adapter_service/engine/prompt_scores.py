"""What base and adapter give the tokens of a prompt itself, as evaluations want it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapter_service.engine.generations import ChosenToken
from adapter_service.errors import NonFiniteLogitsError


def scored(logits: torch.Tensor, tokens: Sequence[int], top: int) -> list[ChosenToken]:
    """`tokens` by the logits (places, vocabulary) of the places before them, each with the `top` likeliest.

    Raises:
        NonFiniteLogitsError: those are no numbers.
    """
    policy = logits[: len(tokens)].float()
    whole = policy.logsumexp(-1)
    if not bool(whole.isfinite().all()):
        raise NonFiniteLogitsError(
            "the logits of the prompt should be finite numbers and are not; the adapter or the base computes beyond "
            "its range: ask another version, or the base alone"
        )
    wanted = torch.tensor(tokens, dtype=torch.long, device=policy.device)
    logprobs = (policy.gather(-1, wanted[:, None])[:, 0] - whole).tolist()
    best = policy.topk(min(top, policy.shape[-1]))
    values = (best.values - whole[:, None]).tolist()
    likeliest = (tuple(zip(*pair, strict=True)) for pair in zip(best.indices.tolist(), values, strict=True))
    return list(map(ChosenToken, tokens, logprobs, likeliest))
