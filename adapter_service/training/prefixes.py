"""What many samples begin with, computed once for some steps: an instruction that no gradient goes through.

It costs a third of what it costs to learn from it, and once in REFRESH_STEPS steps instead of in each. The adapter is
part of it, as it was then; in so few steps it changes little. A step is of whatever samples, as many prefixes as they
may have; what these have in common themselves is computed once too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from adapter_service.base_models.attention import Kept, kept_prefix
from adapter_service.rendering import RenderedSample
from adapter_service.training.packing import common_beginning

REFRESH_STEPS = 8
# What fewer begin with is learned from.
_LEAST_SAMPLES = 8
# To begin with so many tokens more of the same saves more than it takes to keep them.
_WORTH_TOKENS = 8
_MAX_BYTES = 2**28


class KeptPrefixes:
    """Of `samples`: keys and values, for the rows behind them; the oldest are forgotten where there are too many."""

    def __init__(self, model: Any, device: torch.device, samples: Sequence[RenderedSample]) -> None:
        self._model = model
        self._device = device
        shared = shared_beginnings([sample.ids for sample in samples], least_samples=_LEAST_SAMPLES)
        self._ends = {_key(sample): _before(sample, ends) for sample, ends in zip(samples, shared, strict=True)}
        self._ends_of_prefix = {
            ids[:end]: ends[: number + 1] for (ids, _), ends in self._ends.items() for number, end in enumerate(ends)
        }
        self._ends_of_prefix[()] = ()
        self._kept: dict[tuple[int, ...], Kept] = {}

    def tokens_of(self, sample: RenderedSample) -> int:
        """So many of its first tokens are kept."""
        return max(self._ends[_key(sample)], default=0)

    @property
    def keeps_any(self) -> bool:
        return any(self._ends.values())

    def forget(self) -> None:
        """Compute them anew when they are asked for, with the adapter as it is then."""
        self._kept.clear()

    def of(self, prefixes: Sequence[Sequence[int]]) -> list[Kept | None]:
        """Of each, with the adapter in use if it was not there; None of one without tokens."""
        return [self._of(tuple(prefix)) for prefix in prefixes]

    def _of(self, prefix: tuple[int, ...]) -> Kept | None:
        kept, start = None, 0
        for end in self._ends_of_prefix[prefix]:
            if (part := prefix[:end]) not in self._kept:
                self._make_room()
                own = torch.tensor([prefix[start:end]], device=self._device)
                self._kept[part] = kept_prefix(self._model, own, kept)
            kept, start = self._kept[part], end
        return kept

    def _make_room(self) -> None:
        """Whoever is using one holds it."""
        while self._kept and sum(map(_bytes, self._kept.values())) > _MAX_BYTES:
            del self._kept[next(iter(self._kept))]


def shared_beginnings(samples: Sequence[Sequence[int]], *, least_samples: int) -> list[tuple[int, ...]]:
    """Of each of the samples after how many tokens those end that `least_samples` of them begin with.

    The more tokens, the fewer samples; each is worth _WORTH_TOKENS more than the one before it.
    """
    order = sorted(range(len(samples)), key=lambda index: list(samples[index]))
    common = [common_beginning(samples[left], samples[right]) for left, right in pairwise(order)]
    shared: list[tuple[int, ...]] = [()] * len(samples)
    ranges: list[tuple[int, int, tuple[int, ...]]] = [(0, len(order), ())]
    while ranges:
        low, high, known = ranges.pop()
        if high - low < max(2, least_samples):
            continue
        least = min(common[low : high - 1])
        if least - max(known, default=0) >= _WORTH_TOKENS:
            known = (*known, least)
            for place in range(low, high):
                shared[order[place]] = known
        cuts = [place + 1 for place in range(low, high - 1) if common[place] == least]
        ranges += [(start, end, known) for start, end in pairwise([low, *cuts, high])]
    return shared


def _key(sample: RenderedSample) -> tuple[tuple[int, ...], int]:
    return tuple(sample.ids), sample.completion_start


def _before(sample: RenderedSample, ends: Sequence[int]) -> tuple[int, ...]:
    """Those before its last token that is not trained on: that one predicts."""
    return tuple(end for end in ends if end < sample.completion_start)


def _bytes(kept: Kept) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in kept.values())
