"""Which tokens a training step's loss is over: all of the base's, or the samples' and some of the others by chance.

A vocabulary of 262,144 makes the output head a third of a step's work, and a corpus has a tenth of it. Over its
tokens alone the loss would leave words of other languages where they are, and they would come up in
answers. So every step also has a random tail of the others, whose logits are raised by log(others / tail): the
tail then stands for all of them, and the softmax's denominator is right in the mean (the importance correction
of sampled softmax, arXiv:1412.2007 and arXiv:0804.3198).

The samples' tokens are those of their prompts too. No prompt's token is a target, but a base that has learned
little repeats its prompt: what is likely belongs among the tokens that every step pushes down.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch

from adapter_service.rendering import RenderedSample
from adapter_service.settings import LossSettings
from adapter_service.training.loss import Head, completion_loss

# The matrix library likes it.
_MULTIPLE = 64


class Vocabulary:
    """Every token of the base: the loss is the full one."""

    kind: Literal["all", "sampled"] = "all"

    def __init__(self, head: Head) -> None:
        self._head = head

    def draw(self, seed: int, step: int) -> None:
        """Choose the tokens of an optimizer step, the same ones for the same seed and step."""

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor, normalizer: float) -> torch.Tensor:
        """As `completion_loss`, over these tokens."""
        return completion_loss(hidden, targets, self._head, normalizer)


class SampledVocabulary(Vocabulary):
    """`own` tokens always, and with every draw `tail` of the others. No target may be another than an own one.

    Their rows of the head are copied: the own ones once, the tail's at every draw into the same place.
    """

    kind = "sampled"

    def __init__(self, head: Head, own: Sequence[int], tail: int) -> None:
        vocabulary, device = head.weight.shape[0], head.weight.device
        self._whole = head
        self._own = torch.tensor(sorted(own), device=device)
        is_other = torch.ones(vocabulary, dtype=torch.bool)
        is_other[self._own.cpu()] = False
        self._others = is_other.nonzero()[:, 0]
        self._tail = tail
        columns = len(own) + tail
        raised = torch.zeros(columns, device=device)
        raised[len(own) :] = math.log(len(self._others) / tail)
        bias = None if head.bias is None else head.bias.new_empty(columns)
        weight = head.weight.new_empty(columns, head.weight.shape[1])
        super().__init__(replace(head, weight=weight, bias=bias, raised=raised))
        self._copy(self._own, slice(len(own)))

    def draw(self, seed: int, step: int) -> None:
        # Not dropout's numbers, and drawn on the processor: a run that goes on elsewhere draws the same.
        drawer = random.Random(f"vocabulary:{seed}:{step}")  # noqa: S311 - no secret
        generator = torch.Generator().manual_seed(drawer.getrandbits(63))
        places = torch.randperm(len(self._others), generator=generator)[: self._tail]
        tokens = self._others[places.sort().values]  # in order, which memory likes better
        self._copy(tokens.to(self._own.device), slice(len(self._own), None))

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor, normalizer: float) -> torch.Tensor:
        return super().loss(hidden, torch.searchsorted(self._own, targets), normalizer)

    @torch.no_grad()
    def _copy(self, tokens: torch.Tensor, columns: slice) -> None:
        torch.index_select(self._whole.weight, 0, tokens, out=self._head.weight[columns])
        if self._whole.bias is not None and self._head.bias is not None:
            torch.index_select(self._whole.bias, 0, tokens, out=self._head.bias[columns])


def vocabulary_of(
    head: Head, samples: Sequence[RenderedSample], settings: LossSettings, note: Callable[[str], None]
) -> Vocabulary:
    """The vocabulary that training on `samples` has its losses over; `note` is told where it is not as asked."""
    if settings.vocabulary == "all":
        return Vocabulary(head)
    own, whole = tokens_of(samples), head.weight.shape[0]
    columns = columns_for(len(own), whole, settings)
    if columns == whole:
        note(
            f"the samples have {len(own)} tokens, and {settings.sampled_tokens} more are all of the base's {whole}: "
            "loss.vocabulary is all"
        )
        return Vocabulary(head)
    return SampledVocabulary(head, sorted(own), columns - len(own))


def tokens_of(samples: Sequence[RenderedSample]) -> set[int]:
    """Every token that is in `samples`, prompts too."""
    found: set[int] = set()
    for sample in samples:
        found.update(sample.ids)
    return found


def columns_for(own: int, whole: int, settings: LossSettings) -> int:
    """How many of the base's `whole` tokens a loss is over, where the samples have `own`.

    The same at every step, and a multiple of 64: what is missing to it is more tail.
    """
    if settings.vocabulary == "all":
        return whole
    return min(whole, -(-(own + settings.sampled_tokens) // _MULTIPLE) * _MULTIPLE)
