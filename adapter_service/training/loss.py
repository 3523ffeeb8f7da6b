"""Cross-entropy of completion tokens straight from hidden states: logits exist a block at a time.

The output head is frozen, so the gradient that is wanted is the hidden states'; it is made in the
forward pass, block by block, and nothing of the vocabulary's size is kept. For a vocabulary of
262,144 the logits of 512 tokens would be half a gigabyte.

A block is some rows by some columns of the logits. What its columns say is merged into what the
columns before said (running log-sum-exp, as in flash attention), so that all work on a logit is
done while it is in the processor's cache. Gemma's head, one thread of an EPYC, bfloat16: 128, 224
and 512 rows in 0.56, 0.88 and 1.98 s, of which the two products are 0.45, 0.74 and 1.70; with 128
whole rows at a time it was 0.60, 1.08 and 2.25 s, and 268 MB instead of 17.

Before each block there is a pause. On a CPU a block is 256 × 4,096 logits, a quarter of those of 16 rows of a
vocabulary of 262,144; on CUDA it is twice those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from adapter_service.base_models.pauses import pause_here
from adapter_service.errors import BaseModelError

# Rows at a time: the products are 8 % faster with 256 than with 128, and no faster with 512.
_BLOCK_ROWS = 256
# Columns at a time: 256 × 4,096 stay in a processor's cache; a GPU is busy with more of them only.
_BLOCK_COLUMNS = {"cpu": 4096, "cuda": 32_768}
# Heads that do more than a product; these two are computed, any other is refused.
_SOFTCAP, _SCALE = "final_logit_softcapping", "logit_scale"
_UNKNOWN_HEADS = ("logits_scaling", "lm_head_multiplier", "logit_bias")


@dataclass(frozen=True, slots=True)
class Head:
    """The frozen output head: weights (vocabulary, hidden), and what is done to its logits.

    `raised` (vocabulary,), float32, is added to the shaped logits: it is no part of the model but of a
    loss over some of its vocabulary (see `training/vocabulary.py`).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0
    raised: torch.Tensor | None = None

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

    def logits(self, hidden: torch.Tensor, columns: slice) -> torch.Tensor:
        """Raw logits (rows, columns) of hidden states (rows, hidden), in the weights' type."""
        bias = None if self.bias is None else self.bias[columns]
        return torch.nn.functional.linear(hidden, self.weight[columns], bias)

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
    hidden state it is `softmax @ weight - weight[target]`, each times the slope of the shaping.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, normalizer: float) -> torch.Tensor:
        loss = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)  # (rows, hidden)
        for start in range(0, hidden.shape[0], _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            pulled = torch.zeros_like(hidden[rows], dtype=torch.float32)
            losses, at_target = _row_losses(head, hidden[rows], targets[rows], pulled)
            loss += losses.sum()
            gradient[rows] = (pulled - head.slope(at_target) * head.weight[targets[rows]]) / normalizer
        ctx.save_for_backward(gradient)
        return loss / normalizer

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


def _row_losses(
    head: Head, hidden: torch.Tensor, targets: torch.Tensor, pulled: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each row, and its shaped target logit, each (rows, 1).

    Where `pulled` is given (zeros, as `hidden` in float32), `softmax @ weight` is added up in it. Each
    block has a softmax of its own, and its share of the whole is known from both log-sum-exps.
    """
    total = hidden.new_full((len(hidden), 1), -torch.inf, dtype=torch.float32)  # log-sum-exp so far
    at_target = torch.zeros_like(total)
    for columns in _column_blocks(head):
        pause_here()
        shaped = head.shaped(head.logits(hidden, columns))  # (rows, block)
        at_target = _at_target(shaped, targets[:, None] - columns.start, at_target)
        raised = shaped if head.raised is None else shaped + head.raised[columns]
        softmax = torch.softmax(raised, -1)
        # The largest share is exp(largest logit - log-sum-exp): torch's softmax takes half of the time of its exp.
        own = raised.amax(-1, keepdim=True) - softmax.amax(-1, keepdim=True).log()
        before, total = total, torch.logaddexp(total, own)
        if pulled is not None:
            sloped = softmax if head.softcap is None and head.scale == 1.0 else softmax.mul_(head.slope(shaped))
            product = sloped.to(head.weight.dtype) @ head.weight[columns]
            pulled.mul_((before - total).exp()).addcmul_(product.float(), (own - total).exp())
    raised_target = at_target if head.raised is None else at_target + head.raised[targets][:, None]
    return total - raised_target, at_target


def _column_blocks(head: Head) -> Iterator[slice]:
    columns = head.weight.shape[0]
    block = _BLOCK_COLUMNS[head.weight.device.type]
    return (slice(start, min(start + block, columns)) for start in range(0, columns, block))


def _at_target(block: torch.Tensor, places: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """`before` (rows, 1), with the logits of `block` in the rows whose place is inside of it."""
    inside = (places >= 0) & (places < block.shape[1])
    return torch.where(inside, block.gather(1, places.clamp(0, block.shape[1] - 1)), before)


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
    rows = range(0, hidden.shape[0], _BLOCK_ROWS)
    blocks = ((hidden[start : start + _BLOCK_ROWS], targets[start : start + _BLOCK_ROWS]) for start in rows)
    return torch.cat([_row_losses(head, *block)[0][:, 0] for block in blocks])


def loss_bytes(vocabulary: int, item: int, device: torch.device) -> int:
    """What `completion_loss` takes at a time, in weights of `item` bytes: logits twice in those, thrice in float32."""
    columns = min(vocabulary, _BLOCK_COLUMNS[device.type])
    return _BLOCK_ROWS * columns * (2 * item + 3 * 4)
