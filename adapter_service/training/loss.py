"""Cross-entropy of completion tokens straight from hidden states: logits exist a chunk at a time.

The output head is frozen, so the gradient that is wanted is the hidden states'; it is made in the
forward pass, chunk by chunk, and nothing of the vocabulary's size is kept. For a vocabulary of
262,144 the logits of 512 tokens would be half a gigabyte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from adapter_service.errors import BaseModelError

# Rows of logits at a time: 128 × 262,144 bfloat16 are 67 MB.
CHUNK_ROWS = 128
# Columns that are widened to float32 at a time: 128 × 8,192 stay in the processor's cache. Working on
# whole rows of logits instead is memory-bound and took twice as long.
_CHUNK_COLUMNS = 8192
# exp of less is a denormal number, which takes the processor thirty times as long.
_LOWEST_EXPONENT = -80.0
# Heads that do more than a product; these two are computed, any other is refused.
_SOFTCAP, _SCALE = "final_logit_softcapping", "logit_scale"
_UNKNOWN_HEADS = ("logits_scaling", "lm_head_multiplier", "logit_bias")


@dataclass(frozen=True, slots=True)
class Head:
    """The frozen output head: weights (vocabulary, hidden), and what is done to its logits."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a transformers model.

        Raises:
            BaseModelError: a head whose arithmetic is not known here.
        """
        linear, config = model.get_output_embeddings(), model.config.get_text_config()
        if linear is None or any(getattr(config, name, None) not in {None, 1} for name in _UNKNOWN_HEADS):
            raise BaseModelError(
                f"the output head of {config.model_type!r} does more than the trainer knows; choose another base"
            )
        return cls(
            linear.weight,
            getattr(linear, "bias", None),
            getattr(config, _SOFTCAP, None),
            float(getattr(config, _SCALE, None) or 1.0),
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Raw logits (rows, vocabulary) of hidden states (rows, hidden), in the weights' type."""
        return torch.nn.functional.linear(hidden, self.weight, self.bias)

    def shaped(self, logits: torch.Tensor) -> torch.Tensor:
        """Float32 logits, scaled and capped as the model does; never the memory of `logits`."""
        wide = logits.to(torch.float32, copy=True)
        if self.scale != 1.0:
            wide *= self.scale
        return wide if self.softcap is None else self.softcap * torch.tanh(wide / self.softcap)

    def slope(self, shaped: torch.Tensor) -> torch.Tensor | float:
        """The derivative of `shaped` by the raw logits."""
        return self.scale if self.softcap is None else self.scale * (1 - (shaped / self.softcap).square())


class _CompletionLoss(torch.autograd.Function):
    """Sum of token losses over `normalizer`, with the hidden states' gradient made on the way.

    The derivative of one row's loss by its logits is softmax minus one at the target, so by its
    hidden state it is `softmax @ weight - weight[target]`; the softmax's denominator is divided out
    after the product, which spares a pass over the logits.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, normalizer: float) -> torch.Tensor:
        loss = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)  # (rows, hidden)
        for start in range(0, hidden.shape[0], CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            logits = head.logits(hidden[chunk])  # (chunk, vocabulary)
            losses, at_target, totals = _row_losses(head, logits, targets[chunk], sloped=True)
            loss += losses.sum()
            pushed = (logits @ head.weight) / totals - head.slope(at_target) * head.weight[targets[chunk]]
            gradient[chunk] = pushed / normalizer
        ctx.save_for_backward(gradient)
        return loss / normalizer

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


def _row_losses(
    head: Head, logits: torch.Tensor, targets: torch.Tensor, *, sloped: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss of each row, its shaped target logit, and its softmax's denominator, each (rows, 1)."""
    at_target = head.shaped(logits.gather(1, targets[:, None]))
    highest = head.shaped(logits.amax(-1, keepdim=True))
    totals = _exponentiate(head, logits, highest, sloped=sloped)
    return totals.log() + highest - at_target, at_target, totals


def _exponentiate(head: Head, logits: torch.Tensor, highest: torch.Tensor, *, sloped: bool) -> torch.Tensor:
    """Sums (rows, 1) of exp(shaped - highest); with `sloped`, the logits' memory then holds the summands.

    They are times the slope of the shaping, for the derivative by the raw logits.
    """
    totals = torch.zeros_like(highest)
    for part in torch.split(logits, _CHUNK_COLUMNS, dim=1):
        shaped = head.shaped(part)
        slope = head.slope(shaped) if sloped else None
        exponentials = shaped.sub_(highest).clamp_min_(_LOWEST_EXPONENT).exp_()
        totals += exponentials.sum(-1, keepdim=True)
        if slope is not None:
            part.copy_(exponentials.mul_(slope))
    return totals


def completion_loss(hidden: torch.Tensor, targets: torch.Tensor, head: Head, normalizer: float) -> torch.Tensor:
    """Summed cross-entropy of `targets` (rows,) given `hidden` (rows, hidden), over `normalizer`.

    For gradients normalized over an accumulated batch, `normalizer` is that batch's number of
    completion tokens, and the micro-batches' losses add up to the mean.
    """
    loss: torch.Tensor = _CompletionLoss.apply(hidden, targets, head, normalizer)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    """Cross-entropy of each row (rows,), float32; for scoring."""
    losses = []
    for start in range(0, hidden.shape[0], CHUNK_ROWS):
        logits = head.logits(hidden[start : start + CHUNK_ROWS])
        losses.append(_row_losses(head, logits, targets[start : start + CHUNK_ROWS], sloped=False)[0][:, 0])
    return torch.cat(losses)
