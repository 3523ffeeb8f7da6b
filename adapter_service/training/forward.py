"""One micro-batch through the base: hidden states at the places whose next token is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adapter_service.rendering import RenderedSample
from adapter_service.training.batching import padded_length


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Token ids (batch, padded), and which of their places predict a completion token."""

    ids: torch.Tensor
    predicts: torch.Tensor  # (batch, padded), bool
    targets: torch.Tensor  # (completion tokens of the batch,)


def collate(samples: Sequence[RenderedSample], pad_id: int, device: torch.device) -> MicroBatch:
    """Pad on the right. Places come from lengths, never from `pad_id`: it may be the end token too."""
    longest = padded_length(max(len(sample.ids) for sample in samples))
    ids = torch.full((len(samples), longest), pad_id)
    predicts = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        # The place before each completion token predicts it.
        predicts[row, max(sample.completion_start - 1, 0) : len(sample.ids) - 1] = True
    targets = ids.roll(-1, dims=1)[predicts]
    return MicroBatch(ids.to(device), predicts.to(device), targets.to(device))


def completion_states(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Hidden states (completion tokens, hidden) that predict `batch.targets`.

    No attention mask: with padding on the right, causal attention never looks at it.
    """
    decoder = model.get_decoder()
    hidden: torch.Tensor = decoder(input_ids=batch.ids, use_cache=False).last_hidden_state
    return hidden[batch.predicts]
