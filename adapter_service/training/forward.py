"""One micro-batch through the base: hidden states at the places whose next token is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import torch

from adapter_service.base_models.attention import packed_states
from adapter_service.base_models.layout import Layout
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.training.batching import padded_length
from adapter_service.training.noise import EmbeddingNoise
from adapter_service.training.packing import MicroPlan
from adapter_service.training.prefixes import KeptPrefixes

_NOTHING = RenderedSample((), 1)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Token ids (batch, padded), and which of their places predict a completion token.

    With a `layout` the batch is one sequence, and `positions` (1, tokens) says where each token is in its row.
    `targets` (completion tokens of the batch,) are in the order of the plan's samples. `prefixes` are the tokens that
    the rows of each segment stand behind, where these are computed before.
    """

    ids: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor | None = None
    layout: Layout | None = None
    prefixes: tuple[Sequence[int], ...] = ()


def collate(base: BaseModel, samples: Sequence[RenderedSample], plan: MicroPlan) -> MicroBatch:
    """Put the samples where `plan` has them, and padding behind each.

    Which places predict comes from lengths, never from the padding token: it may be the end token too.
    """
    chosen = [samples[place] for place in plan.places]
    prefixes: tuple[Sequence[int], ...] = ()
    if plan.layout is None:
        longest = padded_length(max(len(sample.ids) for sample in chosen))
        rows = [_Row(sample, 0, longest) for sample in chosen]
        shape = (len(rows), longest)
    else:
        rows = list(_rows_of(plan.layout, chosen, kept=plan.kept))
        prefixes = tuple(_prefixes_of(plan.layout, chosen)) if plan.kept else ()
        shape = (1, plan.tokens)
    pad = base.tokenizer.pad_token_id or 0
    ids = torch.tensor([token for row in rows for token in row.ids(pad)]).view(shape)
    predicts = torch.tensor([place for row in rows for place in row.predicts()]).view(shape)
    learned = [token for sample in chosen for token in sample.ids[max(sample.completion_start, 1) :]]
    targets = torch.tensor(learned, dtype=torch.long)  # there may be none
    positions = None
    if plan.layout is not None:
        positions = torch.tensor([place for row in rows for place in range(row.start, row.end)])[None].to(base.device)
    device = base.device
    return MicroBatch(ids.to(device), predicts.to(device), targets.to(device), positions, plan.layout, prefixes)


@dataclass(frozen=True, slots=True)
class _Row:
    """The places of `sample` from `start` to before `end`, padded where it is shorter."""

    sample: RenderedSample
    start: int
    end: int

    def ids(self, pad: int) -> Iterator[int]:
        own = self.sample.ids[self.start : self.end]
        return chain(own, repeat(pad, self.end - self.start - len(own)))

    def predicts(self) -> Iterator[bool]:
        """The place before each completion token predicts it."""
        first, last = max(self.sample.completion_start, 1) - 1, len(self.sample.ids) - 1
        return (first <= place < last for place in range(self.start, self.end))


def _prefixes_of(layout: Layout, samples: Sequence[RenderedSample]) -> Iterator[Sequence[int]]:
    """What the first row of each segment begins with."""
    place = 0
    for segment in layout:
        yield samples[place].ids[: segment.prefix] if segment.prefix else ()
        place += sum(block.rows for block in segment.blocks)


def _rows_of(layout: Layout, samples: Sequence[RenderedSample], *, kept: bool) -> Iterator[_Row]:
    """What lies in the sequence, from its start to its end: prefixes if not `kept`, rows without them, padding."""
    following = iter(samples)
    for segment in layout:
        lengths = [block.tokens for block in segment.blocks for _ in range(block.rows)]
        for number, tokens in enumerate(lengths):
            sample = next(following, _NOTHING)
            if number == 0 and segment.prefix and not kept:
                yield _Row(sample, 0, segment.prefix)
            yield _Row(sample, segment.prefix, segment.prefix + tokens)


def completion_states(
    model: Any, batch: MicroBatch, kept: KeptPrefixes | None = None, noise: EmbeddingNoise | None = None
) -> torch.Tensor:
    """Hidden states (completion tokens, hidden) that predict `batch.targets`, behind its prefixes as they are `kept`.

    No attention mask: with padding on the right, causal attention never looks at it. There is `noise` on all but what
    is kept.
    """
    behind = kept.of(batch.prefixes) if kept is not None and batch.prefixes else None
    with noise.added() if noise else nullcontext():
        if batch.layout is None or batch.positions is None:
            states: torch.Tensor = model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
        else:
            states = packed_states(model, batch.ids, batch.positions, batch.layout, behind)
    return states[batch.predicts]
