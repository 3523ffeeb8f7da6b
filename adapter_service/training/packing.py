"""Which samples of a step go through the base together, and where they lie: pure arithmetic on tokens.

They lie end to end, each padded to a multiple of a few tokens and no further. What several begin with (a system
prompt, an instruction) lies there once: the forward pass computes it once, and in the backward pass what comes from
every one of them adds up in it, so that the gradient is the one of the samples by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile

from adapter_service.base_models.layout import Block, Layout, Segment
from adapter_service.rendering import RenderedSample
from adapter_service.training.batching import PAD_MULTIPLE, padded_length, split


@dataclass(frozen=True, slots=True)
class MicroPlan:
    """One pass: `places` of its samples in the order in which they lie, and how many padded `tokens` that is.

    Without a `layout` each is a row, padded to the longest.
    """

    places: tuple[int, ...]
    layout: Layout | None
    tokens: int


def lay_out(samples: Sequence[RenderedSample], budget_tokens: int, *, packs: bool, shares: bool) -> Iterator[MicroPlan]:
    """Plan passes of at most `budget_tokens`, each sample in one of them; one that is longer has its own.

    `packs` says whether the base takes rows end to end, `shares` whether what they begin with may be computed once.
    """
    if not packs:
        for rows in split([len(sample.ids) for sample in samples], budget_tokens):
            longest = padded_length(max(len(samples[row].ids) for row in rows))
            yield MicroPlan(tuple(rows), None, longest * len(rows))
        return
    filling = _Filling(samples)
    for prefix, places in _groups(samples, shares=shares):
        filling.begin_segment(prefix)
        for place in sorted(places, key=lambda place: -len(samples[place].ids)):
            if filling.tokens and filling.tokens + filling.needed(place) > budget_tokens:
                yield filling.plan()
                filling = _Filling(samples)
                filling.begin_segment(prefix)
            filling.add(place)
    if filling.tokens:
        yield filling.plan()


def _groups(samples: Sequence[RenderedSample], *, shares: bool) -> list[tuple[int, list[int]]]:
    """Samples that begin alike, with how many tokens they share; those that share nothing come last, with 0."""
    alike = _begin_alike(samples) if shares else []
    grouped = {place for _, places in alike for place in places}
    return [*alike, (0, [place for place in range(len(samples)) if place not in grouped])]


def _begin_alike(samples: Sequence[RenderedSample]) -> list[tuple[int, list[int]]]:
    """The groups that save most tokens. In the order of their tokens, samples that begin alike are neighbours."""
    order = sorted(range(len(samples)), key=lambda place: list(samples[place].ids))
    common = [_common(samples[left], samples[right]) for left, right in pairwise(order)]

    def best(low: int, high: int) -> tuple[int, list[tuple[int, list[int]]]]:
        """Tokens saved among `order[low:high]`, and by which groups."""
        if high - low < 2:
            return 0, []
        least = min(common[low : high - 1])
        cuts = [at + 1 for at in range(low, high - 1) if common[at] == least]
        parts = [best(start, end) for start, end in pairwise([low, *cuts, high])]
        saved, together = sum(part for part, _ in parts), least * (high - low - 1)
        if together and together >= saved:
            return together, [(least, order[low:high])]
        return saved, [group for _, groups in parts for group in groups]

    return best(0, len(order))[1]


def _common(left: RenderedSample, right: RenderedSample) -> int:
    """Tokens that both begin with, in whole multiples, up to where the first of them predicts a completion token."""
    end = max(0, min(left.completion_start, right.completion_start) - 1)
    pairs = zip(left.ids[:end], right.ids[:end], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) // PAD_MULTIPLE * PAD_MULTIPLE


class _Filling:
    """A pass that is being filled, segment by segment."""

    def __init__(self, samples: Sequence[RenderedSample]) -> None:
        self._samples = samples
        self._segments: list[tuple[int, list[int]]] = []
        self.tokens = 0

    def begin_segment(self, prefix: int) -> None:
        self._segments.append((prefix, []))

    def needed(self, place: int) -> int:
        prefix, places = self._segments[-1]
        return self._own(place, prefix) + (0 if places else prefix)

    def add(self, place: int) -> None:
        self.tokens += self.needed(place)
        self._segments[-1][1].append(place)

    def plan(self) -> MicroPlan:
        filled = [(prefix if len(places) > 1 else 0, places) for prefix, places in self._segments if places]
        layout = tuple(Segment(prefix, self._blocks(places, prefix)) for prefix, places in filled)
        return MicroPlan(tuple(place for _, places in filled for place in places), layout, self.tokens)

    def _blocks(self, places: list[int], prefix: int) -> tuple[Block, ...]:
        runs = groupby(self._own(place, prefix) for place in places)
        return tuple(Block(sum(1 for _ in run), tokens) for tokens, run in runs)

    def _own(self, place: int, prefix: int) -> int:
        return padded_length(len(self._samples[place].ids) - prefix)
