"""Choosing a token by top-p from a base's whole vocabulary, beside transformers' warper."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from adapter_service.base_models.threads import on_threads
from adapter_service.engine.requests import Sampling
from adapter_service.engine.sampling import TokenChooser
from adapter_service.measuring.provenance import Result

TOP_P, MOST = 0.9, 0.1
# What the target is for: of a smaller vocabulary sorting takes less.
LARGE = 262_144
_ROUNDS = 15


def measure(logits: torch.Tensor) -> list[Result]:
    """From logits (vocabulary,) of a base."""
    from transformers.generation.logits_process import TopPLogitsWarper

    logits = logits.float()
    chooser = TokenChooser(Sampling(do_sample=True, temperature=1.0, top_p=TOP_P, seed=0), frozenset())
    warper = TopPLogitsWarper(TOP_P)
    ids = torch.zeros(1, 1, dtype=torch.long)

    def theirs() -> None:
        torch.multinomial(warper(ids, logits[None]).softmax(-1), 1)

    ours, peers = [], []
    with on_threads(1), torch.inference_mode():
        for _ in range(_ROUNDS):
            ours.append(_milliseconds(lambda: chooser.choose(logits, [])))
            peers.append(_milliseconds(theirs))
    ratio = median(mine / other for mine, other in zip(ours, peers, strict=True))
    measure, target = f"a token by top-p {TOP_P} from {len(logits):,}", MOST if len(logits) >= LARGE else None
    met = None if target is None else ratio <= target
    return [Result(measure, median(ours), "ms", "transformers", median(peers), ratio, target, met)]


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000
