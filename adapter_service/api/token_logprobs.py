"""Tokens with their log-probabilities, in the shapes of OpenAI's two generation routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from adapter_service.api.schemas.chat import ChoiceLogprobs, TokenLogprob, TopLogprob
from adapter_service.api.schemas.completions import CompletionLogprobs
from adapter_service.engine.generations import ChosenToken

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """What the tokens of one tokenizer are in UTF-8; a token may be a part of a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        fast = getattr(tokenizer, "backend_tokenizer", None)
        decoder = b"" if fast is None or fast.decoder is None else fast.decoder.__getstate__()
        self._bytes = _byte_letters() if b'"ByteLevel"' in decoder else None
        self._marks_blanks = fast is None or b"\xe2\x96\x81" in decoder

    def of(self, token: int) -> bytes:
        added = self._tokenizer.added_tokens_decoder.get(token)
        if added is not None:
            return str(added.content).encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a row of the base that no token has
            return b""
        if self._bytes is not None:
            return bytes(self._bytes[letter] for letter in piece)
        if match := _BYTE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        if self._marks_blanks:
            return str(piece).replace("▁", " ").encode()
        return str(self._tokenizer.decode([token])).encode()

    def text(self, token: int) -> str:
        """A part of a character is U+FFFD here."""
        return self.of(token).decode(errors="replace")


def chat_logprobs(tokens: Sequence[ChosenToken], of: TokenBytes) -> ChoiceLogprobs:
    return ChoiceLogprobs(
        content=[
            TokenLogprob(
                token=of.text(token.id),
                bytes=list(of.of(token.id)),
                logprob=token.logprob,
                top_logprobs=[
                    TopLogprob(token=of.text(best), bytes=list(of.of(best)), logprob=logprob)
                    for best, logprob in token.top
                ],
            )
            for token in tokens
        ]
    )


def completion_logprobs(tokens: Sequence[ChosenToken], of: TokenBytes, offset: int) -> CompletionLogprobs:
    """`offset` is where the first token begins in the answer, in characters."""
    texts = [of.text(token.id) for token in tokens]
    offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[token.logprob for token in tokens],
        # The one that was chosen is there too, however unlikely it was.
        top_logprobs=[
            {of.text(best): logprob for best, logprob in ((token.id, token.logprob), *token.top)} for token in tokens
        ],
        text_offset=offsets,
    )


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(others)}
