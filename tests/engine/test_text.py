"""Tokens to text while they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.engine.text import TextStream
from tests.conftest import byte_tokenizer

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

BYTES = byte_tokenizer()
TEXTS = [
    "नमस्ते, आप कैसे हैं?",
    "வணக்கம் நண்பரே",
    "👩‍👩‍👧‍👦 🙂 🇮🇳",
    "plain , text . it 's",
    " blanks  \n\n at both ends ",
    "ਪੰਜਾਬੀ اردو",
]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def pieces_of(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    """What is handed out token by token, and at the end."""
    stream, pieces = TextStream(tokenizer, stop), []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()]


def with_byte_fallback() -> Any:
    """As Gemma's: whole words where they are known, `<0x..>` for each byte where not."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "न", " ", "म"]
    model = models.BPE({token: place for place, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)  # noqa: S106
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


FALLBACK = with_byte_fallback()


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=30))
def test_pieces_of_any_text_make_up_the_text(text: str) -> None:
    assert "".join(pieces_of(BYTES, ids_of(BYTES, text))) == text


@given(st.text("aनम éक्🙂", max_size=20))
def test_bytes_between_words_make_up_the_text(text: str) -> None:
    pieces = pieces_of(FALLBACK, ids_of(FALLBACK, text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_real_tokens_are_what_decoding_all_of_them_gives(small_base: BaseModel, text: str) -> None:
    ids = ids_of(small_base.tokenizer, text)
    pieces = pieces_of(small_base.tokenizer, ids)
    assert "".join(pieces) == small_base.tokenizer.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_code_point_comes_when_its_last_byte_does() -> None:
    assert pieces_of(BYTES, ids_of(BYTES, "न🙂")) == ["", "", "न", "", "", "", "🙂", ""]


def test_bytes_that_never_become_a_code_point_are_not_lost() -> None:
    assert pieces_of(BYTES, ids_of(BYTES, "aन")[:-1]) == ["a", "", "", "\ufffd"]


def test_end_tokens_are_no_text() -> None:
    assert pieces_of(BYTES, [BYTES.bos_token_id, *ids_of(BYTES, "a"), BYTES.eos_token_id]) == ["", "a", "", ""]


def test_no_blank_before_punctuation_is_taken_back() -> None:
    used = byte_tokenizer()
    used.clean_up_tokenization_spaces = True
    used.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    assert used.decode(ids_of(used, "what ?")) == "what?"
    assert "".join(pieces_of(used, ids_of(used, "what ? it 's ."))) == "what ? it 's ."


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("one\nUser: two", ["\nUser:"], "one"),
        ("one STOP two", ["nothing", "STOP"], "one "),
        ("abcabd", ["abd"], "abc"),
        ("नमस्ते।फिर", ["।"], "नमस्ते"),
        ("first second", ["second", "rst s"], "fi"),
        ("STOP", ["STOP"], ""),
        ("no such thing", ["STOP"], "no such thing"),
    ],
)
def test_the_text_ends_before_its_first_stop(text: str, stop: list[str], wanted: str) -> None:
    assert "".join(pieces_of(BYTES, ids_of(BYTES, text), stop)) == wanted


def test_what_may_begin_a_stop_is_held_back_and_given_at_the_end() -> None:
    assert pieces_of(BYTES, ids_of(BYTES, "ab ST"), ["STOP"]) == ["a", "b", " ", "", "", "ST"]
    assert pieces_of(BYTES, ids_of(BYTES, "SSTx"), ["STOP"]) == ["", "S", "", "STx", ""]


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_streaming_stops_where_searching_the_whole_would(text: str, stop: list[str]) -> None:
    ends = [text.find(one) + len(one) for one in stop if one in text]
    # The stop that is complete first ends the answer; of several then complete, the one that begins first.
    seen = text[: min(ends)] if ends else text
    begins = [seen.find(one) for one in stop if one in seen]
    assert "".join(pieces_of(BYTES, ids_of(BYTES, text), stop)) == (seen[: min(begins)] if begins else text)
