"""One answer's tokens as text: pieces for its reader, until an end token, a stop text or its length; without torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from adapter_service.engine.generations import Choice, FinishReason, Piece, TokenTrail
from adapter_service.engine.requests import Sampling
from adapter_service.engine.text import TextStream


class Writing:
    """The `index`-th answer to a request; `publish` gets its pieces as they become certain."""

    def __init__(
        self,
        tokenizer: Any,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        ends: frozenset[int],
        index: int,
        publish: Callable[[Piece], None],
    ) -> None:
        """`ends` are all tokens that end it; none of them is part of it."""
        self.index = index
        self.ends = ends
        self.choice: Choice | None = None  # once it has ended
        self.token_at = time.monotonic()  # when it got its last token; the first one is there as it begins
        self.tokens: list[int] = []  # those that are known, without the one that ends it
        self.completion_tokens = 0
        self.trail = TokenTrail() if sampling.return_tokens else None
        self._max_new_tokens = sampling.max_new_tokens
        self._text = TextStream(tokenizer, sampling.stop, prompt_ids)
        self._publish = publish
        self._pieces: list[str] = []
        self._told = 0

    def has_room(self) -> bool:
        """Whether any token may come; else it ends, by its length."""
        if self._max_new_tokens <= 0:
            self.end("length")
        return self._max_new_tokens > 0

    def add(self, token: int) -> bool:
        """Take the token that was chosen; whether the answer goes on."""
        if token in self.ends:
            self.end("stop")
            return False
        self.tokens.append(token)
        return self._say(self._text.push(token), 1)

    def add_text(self, text: str, tokens: int) -> bool:
        """Take text that so many tokens came to, of which no more is known; whether the answer goes on."""
        return self._say(self._text.add(text), tokens)

    def end(self, reason: FinishReason) -> None:
        """Give what was held back, and the reason."""
        self._give(self._text.finish(), reason)
        self.choice = Choice("".join(self._pieces), reason, self.completion_tokens, self.trail)

    def _say(self, piece: str, tokens: int) -> bool:
        self.completion_tokens += tokens
        self._give(piece)
        if self._text.stopped:
            self.end("stop")
        elif self.completion_tokens >= self._max_new_tokens:
            self.end("length")
        return self.choice is None

    def _give(self, text: str, reason: FinishReason | None = None) -> None:
        self._pieces.append(text)
        if text or reason:
            tokens = self.trail.since(self._told) if self.trail else ()
            self._told = len(self.trail.ids) if self.trail else 0
            self._publish(Piece(text, self.index, tokens, reason))
