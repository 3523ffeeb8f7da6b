"""Tokens to text while they come: whole code points, and stop strings that cross tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TextStream:
    """The text of one answer, token by token.

    What may still become part of a stop string, or of a code point, is held back until it is clear.
    Marks that follow a letter in another token (Indic vowel signs) come as a piece of their own.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._decoded = ""  # of all tokens so far, but for an unfinished code point
        self._given = 0  # characters of it that have been handed out
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token; return the text that is now certain. After `stopped`, take no more."""
        self._ids.append(token)
        text = self._decode()
        if text.endswith("\ufffd"):  # a code point's bytes are not all there
            return ""
        self._decoded = text
        found = [place for place in map(text.find, self._stop) if place >= 0]
        if found:
            self.stopped = True
            self._decoded = text[: min(found)]
            return self._hand_out(len(self._decoded))
        return self._hand_out(len(text) - self._may_begin_stop(text))

    def finish(self) -> str:
        """The rest, when no token follows; bytes that never became a code point come as U+FFFD."""
        if not self.stopped:
            self._decoded = self._decode()
        return self._hand_out(len(self._decoded))

    def _decode(self) -> str:
        # Some tokenizers would otherwise take out blanks before punctuation that were handed out already.
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _hand_out(self, end: int) -> str:
        piece = self._decoded[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _may_begin_stop(self, text: str) -> int:
        """Length of the longest end of `text` that some stop string begins with."""
        longest = max((len(stop) for stop in self._stop), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
