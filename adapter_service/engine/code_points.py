"""Tokens to whole code points while they come, by the tokenizer's own stream decoder or by a window of tokens.

Marks that follow a letter in another token (Indic vowel signs) come as a piece of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

REPLACEMENT = "\ufffd"
# A code point has 4 bytes at most, so what is still none after more tokens than this never becomes one;
# tokens that are no text (end of turn, say) are let go as well.
_MOST_HELD = 8
# So many of the prompt's last tokens are enough to know whether a blank before the first word is text, and a few
# more to begin where a character does. A prompt's last tokens may all be no text: then more are looked at.
_CONTEXT = (6, 7, 8, 9, 64)
_BYTES_HELD = 3


class CodePoints(Protocol):
    """The text of one answer, token by token, in pieces that are never taken back."""

    def push(self, token: int) -> str:
        """The text that is certain with this token, which may be none."""
        ...

    def finish(self) -> str:
        """The rest; bytes that never became a code point come as U+FFFD."""
        ...


def code_points(tokenizer: Any, prompt_ids: Sequence[int] = ()) -> CodePoints:
    """For one answer to the prompt, whose text goes on where the prompt's ends.

    Put together, the pieces are what decoding prompt and answer at once adds to the prompt's text; without a
    prompt, they are the answer decoded. Byte pieces (`<0xE0>`) that are no UTF-8 are the one difference:
    decoding at once makes U+FFFD of every byte around them, and here the whole code points among them are kept.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)

    def decode(ids: Sequence[int]) -> str:
        if fast is not None:
            return str(fast.decode(list(ids), skip_special_tokens=True))
        # Some tokenizers would otherwise take out blanks before punctuation that were handed out already.
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    context, begun = _borders(decode, prompt_ids)
    return _Streamed(fast, decode, context, begun) if fast is not None else _Windowed(decode, context, begun)


class _Streamed:
    """By `DecodeStream`, whose gaps are closed here.

    It never gives out an incomplete end, holds bytes that are none without bound, and fails where a token
    changes what the ones before it were ("Invalid prefix").
    """

    def __init__(
        self, fast: Any, decode: Callable[[Sequence[int]], str], context: Sequence[int], begun: Sequence[int]
    ) -> None:
        self._fast = fast
        self._decode = decode
        self._context = list(context)  # of the last piece
        self._held: list[int] = []  # since then
        self._stream = self._new_stream(self._context)
        for token in begun:
            self.push(token)

    def push(self, token: int) -> str:
        self._held.append(token)
        try:
            piece = self._stream.step(self._fast, token)
        except Exception:  # noqa: BLE001 - tokenizers raises no class of its own
            return self._let_go(_settled(self._decode, self._held))
        if piece:
            self._context, self._held = self._held, []
            return str(piece)
        return self._let_go(_settled(self._decode, self._held)) if len(self._held) >= _MOST_HELD else ""

    def finish(self) -> str:
        held, self._held = self._held, []
        return self._decode(held) if held else ""

    def _let_go(self, settled: tuple[str, int]) -> str:
        """Give out the text of all but the last held tokens, and begin a new stream with these."""
        text, left = settled
        self._held = self._held[len(self._held) - left :]
        # What was let go is no context: a stream that begins with bytes that are no character gives them out again.
        self._stream = self._new_stream(self._context)
        for token in self._held:
            self._stream.step(self._fast, token)
        return text

    def _new_stream(self, ids: list[int]) -> Any:
        from tokenizers.decoders import DecodeStream

        return DecodeStream(ids=ids, skip_special_tokens=True)


class _Windowed:
    """For tokenizers without a Rust one below them: the last piece's tokens and those since are decoded together."""

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int], begun: Sequence[int]) -> None:
        self._decode = decode
        self._context, self._known = list(context), decode(context)
        self._held: list[int] = []
        for token in begun:
            self.push(token)

    def push(self, token: int) -> str:
        self._held.append(token)
        text = self._decode([*self._context, *self._held])
        if text.endswith(REPLACEMENT) and len(self._held) < _MOST_HELD:
            return ""
        if text.endswith(REPLACEMENT) or not text.startswith(self._known):
            piece, left = _settled(self._decode, self._held)
            self._held = self._held[len(self._held) - left :]
            return piece
        if piece := text[len(self._known) :]:
            self._context, self._known = self._held, self._decode(self._held)
        self._held = []
        return piece

    def finish(self) -> str:
        held, self._held = self._held, []
        return self._decode(held) if held else ""


def _settled(decode: Callable[[Sequence[int]], str], held: Sequence[int]) -> tuple[str, int]:
    """The text of `held` that no token changes any more, and how many of its last tokens are not in it."""
    text = decode(held)
    if not text.endswith(REPLACEMENT):
        return text, 0
    for left in range(1, _BYTES_HELD + 1):
        before, end = decode(held[:-left]), decode(held[-left:])
        if end.endswith(REPLACEMENT) and before + end == text:  # the border is one between characters
            return before, left
    return text, 0


def _borders(decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The prompt's last tokens, from one border between characters to another, and those of a character just begun."""
    prompt_ids = prompt_ids[-_CONTEXT[-1] - _BYTES_HELD :]
    if not decode(prompt_ids):  # a blank alone may be none at the start of a text, and is one for what follows
        return prompt_ids, ()
    for begun in range(min(_BYTES_HELD + 1, len(prompt_ids))):
        end = len(prompt_ids) - begun
        for length in _CONTEXT:
            context = prompt_ids[max(0, end - length) : end]
            text = decode(context)
            if text and not text.startswith(REPLACEMENT) and not text.endswith(REPLACEMENT):
                return context, prompt_ids[end:]
    return (), ()
