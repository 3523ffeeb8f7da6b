"""One answer as it grows: from logits to tokens, to text, to the pieces that a reader gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from adapter_service.engine.generations import Choice, FinishReason, Piece, TokenTrail
from adapter_service.engine.requests import Sampling
from adapter_service.engine.sampling import TokenChooser
from adapter_service.engine.sequence import Sequence
from adapter_service.engine.text import TextStream

if TYPE_CHECKING:
    import torch

    from adapter_service.model_utils import BaseModel


class Answer:
    """The `index`-th answer to a request; `publish` gets its pieces as they become certain."""

    def __init__(
        self, base: BaseModel, sequence: Sequence, sampling: Sampling, index: int, publish: Callable[[Piece], None]
    ) -> None:
        self.sequence = sequence
        self.index = index
        self.choice: Choice | None = None  # once it has ended
        self.token_at = time.monotonic()  # when it got its last token; the first one is there as it begins
        self.tokens: list[int] = []  # without the one that ends it
        self._sampling = sampling
        self._ends = base.eos_ids() | sampling.extra_eos_ids
        self._trail = TokenTrail() if sampling.return_tokens else None
        foreign = None
        if sampling.script is not None and sampling.foreign_script_penalty:
            foreign = base.foreign_to(sampling.script)
        self._chooser = TokenChooser(sampling, self._ends, self._trail, foreign)
        self._text = TextStream(base.tokenizer, sampling.stop, sequence.prompt)
        self._publish = publish
        self._pieces: list[str] = []
        self._told = 0

    def take(self, logits: torch.Tensor) -> bool:
        """Choose what follows from logits (vocabulary,), if anything may; whether the answer goes on.

        Raises:
            NonFiniteLogitsError: there is nothing to choose from.
        """
        if not self._sampling.max_new_tokens:
            self.end("length")
            return False
        token = self._chooser.choose(logits, self.tokens)
        if token in self._ends:
            self.end("stop")
            return False
        self.tokens.append(token)
        self.sequence.next_token = token
        piece = self._text.push(token)
        if self._text.stopped or len(self.tokens) >= self._sampling.max_new_tokens:
            self._give(piece)
            self.end("stop" if self._text.stopped else "length")
            return False
        self._give(piece)
        return True

    def end(self, reason: FinishReason) -> None:
        """Give what was held back, and the reason."""
        self._give(self._text.finish(), reason)
        self.choice = Choice("".join(self._pieces), reason, len(self.tokens), self._trail)

    def _give(self, text: str, reason: FinishReason | None = None) -> None:
        self._pieces.append(text)
        if text or reason:
            tokens = self._trail.since(self._told) if self._trail else ()
            self._told = len(self._trail.ids) if self._trail else 0
            self._publish(Piece(text, self.index, tokens, reason))
