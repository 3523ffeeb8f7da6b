"""Tokens to text while they come: whole code points, up to the first stop string, which may cross tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapter_service.engine.code_points import code_points
from adapter_service.engine.stops import StopString


class TextStream:
    """The text of one answer, token by token; what was handed out is never taken back.

    Held back is the longest end of the text that some stop string begins with, and what is not yet a
    code point. The stop string that is complete first ends the text; of several that are then complete,
    the text ends before the longest.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), prompt_ids: Sequence[int] = ()) -> None:
        """With the prompt's tokens, a blank between prompt and answer is text where the tokenizer drops one at a start.

        An empty stop string is none.
        """
        self._code_points = code_points(tokenizer, prompt_ids)
        self._stops = [StopString(text) for text in stop if text]
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token; return the text that is now certain. After `stopped`, take no more."""
        return self.add(self._code_points.push(token))

    def add(self, piece: str) -> str:
        """Take text instead of a token; return what is now certain. After `stopped`, take no more."""
        if not self._stops:
            return piece
        text = self._held + piece
        for place, character in enumerate(piece, len(self._held)):
            if complete := [stop.begun for stop in self._stops if stop.take(character)]:
                self.stopped, self._held = True, ""
                return text[: place + 1 - max(complete)]
        certain = len(text) - max(stop.begun for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """The rest, when no token follows; bytes that never became a code point come as U+FFFD."""
        if self.stopped:
            return ""
        piece = self.add(self._code_points.finish())
        rest, self._held = self._held, ""
        return piece + rest
