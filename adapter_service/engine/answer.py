"""One answer as it grows here: from logits to the next token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from adapter_service.engine.generations import Piece
from adapter_service.engine.requests import Sampling
from adapter_service.engine.sampling import TokenChooser
from adapter_service.engine.sequence import Sequence
from adapter_service.engine.writing import Writing

if TYPE_CHECKING:
    import torch

    from adapter_service.model_utils import BaseModel


class Answer(Writing):
    """An answer whose tokens are chosen here; `sequence` is how the base sees it."""

    def __init__(
        self, base: BaseModel, sequence: Sequence, sampling: Sampling, index: int, publish: Callable[[Piece], None]
    ) -> None:
        ends = base.eos_ids() | sampling.extra_eos_ids
        super().__init__(base.tokenizer, sequence.prompt, sampling, ends, index, publish)
        self.sequence = sequence
        foreign = None
        if sampling.script is not None and sampling.foreign_script_penalty:
            foreign = base.foreign_to(sampling.script)
        self._chooser = TokenChooser(sampling, ends, self.trail, foreign)

    def take(self, logits: torch.Tensor) -> bool:
        """Choose what follows from logits (vocabulary,), if anything may; whether the answer goes on.

        Raises:
            NonFiniteLogitsError: there is nothing to choose from.
        """
        if not self.has_room():
            return False
        self.sequence.next_token = self._chooser.choose(logits, self.tokens)
        return self.add(self.sequence.next_token)
