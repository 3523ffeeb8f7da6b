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

# Rows of logits at a time: 128 × 262,144 float32 are 134 MB.
_CHUNK_ROWS = 128
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
        linear, config = model.get_output_embeddings(), model.config
        if linear is None or any(getattr(config, name, None) not in {None, 1, 1.0} for name in _UNKNOWN_HEADS):
            raise BaseModelError(f"the output head of {config.model_type!r} is not known to the trainer")
        return cls(
            linear.weight,
            getattr(linear, "bias", None),
            getattr(config, _SOFTCAP, None),
            float(getattr(config, _SCALE, None) or 1.0),
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits (rows, vocabulary) of hidden states (rows, hidden)."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class _CompletionLoss(torch.autograd.Function):
    """Sum of token losses over `normalizer`, with the hidden states' gradient made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, normalizer: float) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)  # (rows, hidden)
        for start in range(0, hidden.shape[0], _CHUNK_ROWS):
            rows, wanted = hidden[start : start + _CHUNK_ROWS], targets[start : start + _CHUNK_ROWS]
            logits = head.logits(rows)  # (chunk, vocabulary)
            log_total = logits.logsumexp(-1, keepdim=True)
            total += (log_total[:, 0] - logits.gather(1, wanted[:, None])[:, 0]).sum()
            slope = 1 - (logits / head.softcap).square() if head.softcap is not None else None
            error = logits.sub_(log_total).exp_()  # the probabilities, in the logits' memory
            error[torch.arange(len(wanted), device=error.device), wanted] -= 1.0
            if slope is not None:
                error *= slope
            gradient[start : start + _CHUNK_ROWS] = (error * (head.scale / normalizer)).to(head.weight.dtype) @ head.weight
        ctx.save_for_backward(gradient)
        return total / normalizer

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


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
    for start in range(0, hidden.shape[0], _CHUNK_ROWS):
        logits = head.logits(hidden[start : start + _CHUNK_ROWS])
        wanted = targets[start : start + _CHUNK_ROWS, None]
        losses.append(logits.logsumexp(-1) - logits.gather(1, wanted)[:, 0])
    return torch.cat(losses)
