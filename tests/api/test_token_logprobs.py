"""What a token is in bytes, for each way that tokenizers write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.api.token_logprobs import TokenBytes, chat_logprobs
from adapter_service.engine.generations import ChosenToken
from tests.conftest import byte_tokenizer

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

TEXTS = ["नमस्ते, दुनिया!", "👩‍👩‍👧 ok", " two  blanks\n", "வணக்கம்"]


def with_byte_pieces() -> Any:
    """As Gemma's: blanks are ▁, and what is not in the vocabulary comes byte by byte."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    unknown, end = "<unk>", "</s>"
    vocabulary = {unknown: 0, end: 1, "▁": 2, "a": 3, "▁a": 4}
    vocabulary |= {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token=unknown, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, unk_token=unknown)


def spelled(tokenizer: Any, text: str) -> str:
    of = TokenBytes(tokenizer)
    return b"".join(map(of.of, tokenizer(text, add_special_tokens=False)["input_ids"])).decode()


@given(st.text())
def test_the_bytes_of_a_texts_tokens_are_the_text(text: str) -> None:
    assert spelled(byte_tokenizer(), text) == text


@pytest.mark.parametrize("text", [*TEXTS, "a a é"])
def test_byte_pieces_and_marked_blanks_are_read(text: str) -> None:
    assert spelled(with_byte_pieces(), text) == text


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_the_small_base_too(small_base: BaseModel, text: str) -> None:
    assert spelled(small_base.tokenizer, text) == text


def test_a_part_of_a_character_is_shown_as_such_and_its_bytes_are_told() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("é", add_special_tokens=False)["input_ids"]
    first, second = chat_logprobs([ChosenToken(token, -1.0) for token in ids], TokenBytes(tokenizer)).content
    assert (first.token, first.bytes, second.bytes) == ("\ufffd", [0xC3], [0xA9])
