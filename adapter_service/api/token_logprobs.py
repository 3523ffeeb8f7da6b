"""Tokens with their log-probabilities, in the shapes of OpenAI's two generation routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from adapter_service.api.schemas.chat import ChoiceLogprobs, TokenLogprob, TopLogprob
from adapter_service.api.schemas.completions import CompletionLogprobs
from adapter_service.engine.generations import ChosenToken

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """What the tokens of one tokenizer are in UTF-8; a token may be a part of a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
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

    def is_special(self, token: int) -> bool:
        return token in self._special

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
        top_logprobs=[_by_text(token, of) for token in tokens],
        text_offset=offsets,
    )


def _by_text(token: ChosenToken, of: TokenBytes) -> dict[str, float]:
    """The likeliest, and the one that was chosen, however unlikely it was; of two with one text the likelier counts."""
    told = sorted([(token.id, token.logprob), *token.top], key=lambda one: one[1])
    return {of.text(one): logprob for one, logprob in told}


def prompt_logprobs(first: int, trail: Sequence[ChosenToken], of: TokenBytes) -> CompletionLogprobs:
    """Of a prompt of the token `first` and those of `trail`; special tokens take no place in its text."""
    found = completion_logprobs([ChosenToken(first, 0.0), *trail], of, 0)
    lengths = [0 if of.is_special(token) else len(of.text(token)) for token in (first, *(one.id for one in trail))]
    return CompletionLogprobs(
        tokens=found.tokens,
        token_logprobs=[None, *found.token_logprobs[1:]],
        top_logprobs=[None, *found.top_logprobs[1:]],
        text_offset=[0, *accumulate(lengths[:-1])],
    )


def joined(prompt: CompletionLogprobs, answer: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=prompt.tokens + answer.tokens,
        token_logprobs=prompt.token_logprobs + answer.token_logprobs,
        top_logprobs=prompt.top_logprobs + answer.top_logprobs,
        text_offset=prompt.text_offset + answer.text_offset,
    )


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(others)}
