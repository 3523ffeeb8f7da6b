"""Which samples of a step go through the base together, and where they lie: pure arithmetic on tokens.

They lie end to end, each padded by a few tokens at most, to be as long as the one before it. What several begin with
(a system prompt, an instruction) lies there once: the forward pass computes it once, and in the backward pass what
comes from every one of them adds up in it, so that the gradient is the one of the samples by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

from adapter_service.base_models.layout import Block, Layout, Segment
from adapter_service.rendering import RenderedSample
from adapter_service.training.batching import padded_length, split

# Rows of other lengths attend apart from each other, which costs about as much as so many tokens.
_BLOCK_COSTS_TOKENS = 16
# To share less would be more work than to compute it again.
_LEAST_PREFIX = 8
# Passes are a multiple of so many tokens long: the matrix library prepares each length of a product, a millisecond for
# each of some forty, and keeps the last ones.
_PASS_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class MicroPlan:
    """One pass: `places` of its samples in the order in which they lie, and how many `tokens` that is with padding.

    Without a `layout` each is a row, padded to the longest; with one, what is behind the last row is padding too. Where
    prefixes are `kept`, none of them lies there.
    """

    places: tuple[int, ...]
    layout: Layout | None
    tokens: int
    kept: bool = False


def lay_out(
    samples: Sequence[RenderedSample], budget_tokens: int, *, packs: bool, shares: bool, kept: Sequence[int] = ()
) -> Iterator[MicroPlan]:
    """Plan passes of at most `budget_tokens`, each sample in one of them; one that is longer has its own.

    `packs` says whether the base takes rows end to end, `shares` whether what they begin with may be computed once. So
    many tokens of each sample as `kept` says are computed before, and lie in no pass.
    """
    if not packs:
        for rows in split([len(sample.ids) for sample in samples], budget_tokens):
            longest = padded_length(max(len(samples[row].ids) for row in rows))
            yield MicroPlan(tuple(rows), None, longest * len(rows))
        return
    filling = _Filling(samples, budget_tokens, kept=bool(kept))
    groups = _groups_behind(samples, kept) if kept else _groups(samples, shares=shares)
    for prefix, places in groups:
        filling.begin_segment(prefix)
        for place in sorted(places, key=lambda place: -len(samples[place].ids)):
            if not filling.has_room(place):
                yield filling.plan()
                filling = _Filling(samples, budget_tokens, kept=bool(kept))
                filling.begin_segment(prefix)
            filling.add(place)
    if filling.tokens:
        yield filling.plan()


def _groups_behind(samples: Sequence[RenderedSample], kept: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Samples by what they begin with, that many of their tokens."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, (sample, tokens) in enumerate(zip(samples, kept, strict=True)):
        groups.setdefault(tuple(sample.ids[:tokens]), []).append(place)
    return [(len(prefix), places) for prefix, places in groups.items()]


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


def common_beginning(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _common(left: RenderedSample, right: RenderedSample) -> int:
    """Tokens that both begin with, up to where the first of them predicts a completion token; 0 for a few."""
    end = max(0, min(left.completion_start, right.completion_start) - 1)
    count = common_beginning(left.ids[:end], right.ids[:end])
    return count if count >= _LEAST_PREFIX else 0


@dataclass(slots=True)
class _OpenBlock:
    """Rows that are padded to `tokens`, which the first of them has; `padding` is how much that is by now."""

    tokens: int
    rows: int = 1
    padding: int = 0


@dataclass(slots=True)
class _OpenSegment:
    prefix: int
    places: list[int] = field(default_factory=list)
    blocks: list[_OpenBlock] = field(default_factory=list)


class _Filling:
    """A pass that is being filled, segment by segment, the longest row of each first."""

    def __init__(self, samples: Sequence[RenderedSample], budget_tokens: int, *, kept: bool) -> None:
        self._samples = samples
        self._budget_tokens = budget_tokens
        self._kept = kept
        self._segments: list[_OpenSegment] = []
        self.tokens = 0

    def begin_segment(self, prefix: int) -> None:
        self._segments.append(_OpenSegment(prefix))

    def has_room(self, place: int) -> bool:
        """Whether the sample fits; an empty pass takes what is longer than the budget too."""
        block = self._block_for(place)
        more = self._own(place) if block is None else block.tokens
        prefix = 0 if self._segments[-1].places or self._kept else self._segments[-1].prefix
        return not self.tokens or self.tokens + prefix + more <= self._budget_tokens

    def add(self, place: int) -> None:
        segment, block = self._segments[-1], self._block_for(place)
        if not segment.places and not self._kept:
            self.tokens += segment.prefix
        segment.places.append(place)
        if block is None:
            block = _OpenBlock(self._own(place))
            segment.blocks.append(block)
        else:
            block.rows += 1
            block.padding += block.tokens - self._own(place)
        self.tokens += block.tokens

    def plan(self) -> MicroPlan:
        filled = [segment for segment in self._segments if segment.places]
        layout = [_closed(segment, kept=self._kept) for segment in filled]
        tokens = max(self.tokens, min(-(-self.tokens // _PASS_MULTIPLE) * _PASS_MULTIPLE, self._budget_tokens))
        if tokens > self.tokens:
            layout.append(Segment(0, (Block(1, tokens - self.tokens),)))
        places = tuple(place for segment in filled for place in segment.places)
        return MicroPlan(places, tuple(layout), tokens, self._kept)

    def _block_for(self, place: int) -> _OpenBlock | None:
        """The block that the sample may join."""
        blocks = self._segments[-1].blocks
        if not blocks or blocks[-1].padding + blocks[-1].tokens - self._own(place) > _BLOCK_COSTS_TOKENS:
            return None
        return blocks[-1]

    def _own(self, place: int) -> int:
        return len(self._samples[place].ids) - self._segments[-1].prefix


def _closed(segment: _OpenSegment, *, kept: bool) -> Segment:
    blocks = [Block(block.rows, block.tokens) for block in segment.blocks]
    if kept or len(segment.places) > 1:
        return Segment(segment.prefix, tuple(blocks))
    return Segment(0, (Block(1, segment.prefix + blocks[0].tokens),))
