"""What the base makes of texts: a point for each, near those of texts that mean alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapter_service.model_utils import BaseModel

# So far up a base knows what a text means, and thinks less of what comes next. By the states of Gemma 3 270M after 6 of
# its 18 layers, 97.5 % of sentences are told to be of which of a dozen commands; after 12 95 %, at the end 93 %.
_PART_OF_LAYERS = 1 / 3
_MOST_TOKENS = 64


@torch.no_grad()
def embeddings(base: BaseModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The mean state of the tokens of each text (texts, hidden), float32 on the processor.

    Of a long one its beginning. The first token is left out where there are others: attention rests upon it, whatever
    it is.
    """
    rows = [[token for token in text if token < base.vocabulary][:_MOST_TOKENS] or [0] for text in texts]
    longest = max(map(len, rows))
    # What stands behind a text is seen by none of its tokens.
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=base.device)
    states = base.model.get_decoder()(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    chosen = states[round(_PART_OF_LAYERS * (len(states) - 1))].float().cpu()
    return torch.stack([own[min(1, len(row) - 1) : len(row)].mean(0) for own, row in zip(chosen, rows, strict=True)])
