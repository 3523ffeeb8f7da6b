"""A pass through transformers' modules, whose keys and values are kept elsewhere."""

from __future__ import annotations

from typing import Any

import torch

from adapter_service.base_models.attention import Attending, attending
from adapter_service.engine.sequence import Sequence
from adapter_service.lora.layer import Served, using
from adapter_service.lora.resident import OneAdapter


def module_logits(
    model: Any,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    added: Served | None,
    attention: Attending,
    *,
    keep: int = 1,
) -> torch.Tensor | None:
    """Logits (batch, keep, vocabulary) of what follows the last of `tokens` (batch, new) at `positions`, if any."""
    with using(added), attending(attention):
        if not keep:
            model.get_decoder()(input_ids=tokens, position_ids=positions, use_cache=False)
            return None
        output = model(input_ids=tokens, position_ids=positions, use_cache=False, logits_to_keep=keep)
    logits: torch.Tensor = output.logits
    return logits


def added_by(sequence: Sequence) -> OneAdapter | None:
    """The adapter of one sequence's pass."""
    return OneAdapter(sequence.added, sequence.scale) if sequence.added else None
