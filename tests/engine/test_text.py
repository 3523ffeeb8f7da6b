"""Tokens to text while they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.engine.stops import StopString
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
    "আমার সোনার বাংলা, আমি তোমায় ভালোবাসি।",
    "یہ اُردو ہے؛ ٹھیک؟",
    "人工智能、機器學習。日本語かな 한국어",
    "क्\u200dष श्री ज्ञ",
    "e\u0301 a\u0308 \ufdfa 𝔘𝔫𝔦 🏳️‍🌈",
]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def pieces_of(
    tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = (), prompt_ids: Sequence[int] = ()
) -> list[str]:
    """What is handed out token by token, and at the end."""
    stream, pieces = TextStream(tokenizer, stop, prompt_ids), []
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


def with_marked_blanks() -> Any:
    """As Llama 2's: blanks are in the words as `▁`, the first of a text is dropped, bytes for what is no word."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["\u2581", "\u2581a", "a", "b", "\u2581न", "न", "म"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    model = models.BPE({token: place for place, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)  # noqa: S106
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # noqa: S106


@cache
def by_sentencepiece() -> Any:
    """Our own tokenizer over a SentencePiece model, which has no Rust one below it."""
    import tempfile
    from pathlib import Path

    import sentencepiece

    from adapter_service.base_models.sentencepiece_tokenizer import SentencePieceTokenizer

    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b ab", "नम न", "it is a, b"] * 5),
            model_prefix=f"{folder}/small",
            vocab_size=290,
            hard_vocab_limit=False,
            byte_fallback=True,
            minloglevel=3,
        )
        return SentencePieceTokenizer(Path(folder) / "small.model")


FALLBACK = with_byte_fallback()
MARKED = with_marked_blanks()
FIRST_BYTE = {id(FALLBACK): 1, id(MARKED): 3}  # the place of <0x00>


@st.composite
def tokenized(draw: st.DrawFn, tokenizer: Any) -> list[int]:
    """Tokens of some text, each word of it as a token or as its bytes."""
    first = FIRST_BYTE[id(tokenizer)]
    vocabulary = tokenizer.get_vocab()
    words = sorted(word for word, place in vocabulary.items() if place >= first + 256)
    ids: list[int] = []
    for word in draw(st.lists(st.sampled_from([*words, "é", "🙂", "\u0915\u094d"]), max_size=12)):
        if word in vocabulary and draw(st.booleans()):
            ids.append(vocabulary[word])
        else:
            ids += [first + byte for byte in word.replace("\u2581", " ").encode()]
    return ids


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def before_stop(text: str, stop: Sequence[str]) -> str:
    """`text` up to the stop that ends first; of several that end there, the longest."""
    ends = [text.find(one) + len(one) for one in stop if one in text]
    if not ends:
        return text
    seen = text[: min(ends)]
    return seen[: min(seen.find(one) for one in stop if one in seen)]


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=30))
@settings(deadline=None)
def test_pieces_of_any_text_make_up_the_text(text: str) -> None:
    assert "".join(pieces_of(BYTES, ids_of(BYTES, text))) == text


@given(st.text("aनम éक्🙂", max_size=20))
@settings(deadline=None)
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


STOPS = st.lists(st.text("ab न🙂é", min_size=1, max_size=4), max_size=3)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
@settings(deadline=None)
def test_streaming_stops_where_searching_the_whole_would(text: str, stop: list[str]) -> None:
    assert "".join(pieces_of(BYTES, ids_of(BYTES, text), stop)) == before_stop(text, stop)


@pytest.mark.parametrize("tokenizer", [FALLBACK, MARKED], ids=["byte fallback", "marked blanks"])
@given(data=st.data(), stop=STOPS)
@settings(deadline=None)
def test_pieces_are_the_whole_decoded_at_once_up_to_its_stop(
    tokenizer: Any, data: st.DataObject, stop: list[str]
) -> None:
    """Whatever the text and however it is cut into tokens."""
    ids = data.draw(tokenized(tokenizer))
    assert "".join(pieces_of(tokenizer, ids, stop)) == before_stop(decoded(tokenizer, ids), stop)


@given(data=st.data())
@settings(deadline=None)
def test_an_answer_goes_on_where_its_prompts_text_ends(data: st.DataObject) -> None:
    """So the blank before its first word is there."""
    prompt, answer = data.draw(tokenized(MARKED)), data.draw(tokenized(MARKED))
    known, whole = decoded(MARKED, prompt), decoded(MARKED, prompt + answer)
    assert known + "".join(pieces_of(MARKED, answer, prompt_ids=prompt)) == whole


def test_tokens_that_are_no_text_may_stand_between_prompt_and_answer() -> None:
    prompt = [*ids_of(MARKED, "a"), *[MARKED.eos_token_id] * 20]
    blank_a = MARKED.convert_tokens_to_ids("\u2581a")
    assert "".join(pieces_of(MARKED, [blank_a], prompt_ids=prompt)) == " a"
    assert "".join(pieces_of(MARKED, [blank_a])) == "a"


@pytest.mark.parametrize("tokenizer", [BYTES, FALLBACK], ids=["bytes", "byte fallback"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_prompt_that_ends_inside_a_character_is_not_said_again(tokenizer: Any, cut: int) -> None:
    """The answer has the character whole."""
    first = FIRST_BYTE.get(id(tokenizer))
    ids = ids_of(tokenizer, "ab ab ab 🙂") if first is None else [*ids_of(tokenizer, "a aनa ")]
    if first is not None:
        ids += [first + byte for byte in "🙂".encode()]
    answer = [*ids[-cut:], *ids_of(tokenizer, "a")]
    assert "".join(pieces_of(tokenizer, answer, prompt_ids=ids[:-cut])) == "🙂a"


@given(st.lists(st.integers(0, 257), max_size=40), STOPS)
@settings(deadline=None)
def test_any_bytes_come_as_decoding_them_at_once_has_them(ids: list[int], stop: list[str]) -> None:
    """Those that are no UTF-8, and tokens that are no text, among them."""
    assert "".join(pieces_of(BYTES, ids, stop)) == before_stop(decoded(BYTES, ids), stop)


@given(st.lists(st.integers(0, len(FALLBACK) - 1) | st.integers(0xE1, 0xE6), max_size=40))
@settings(deadline=None)
def test_whole_characters_stay_among_bytes_that_are_none(ids: list[int]) -> None:
    """Where decoding at once takes all bytes around a broken one away, those before it have been handed out."""
    kept, at_once = Counter("".join(pieces_of(FALLBACK, ids))), Counter(decoded(FALLBACK, ids))
    assert all(kept[letter] >= at_once[letter] for letter in at_once if letter != "\ufffd")
    assert "".join(pieces_of(FALLBACK, [1 + 0xE0, 1 + 0xA4, 1 + 0xA8, 1 + 0x80, 257])) == "न\ufffda"


def test_bytes_that_never_become_a_code_point_are_not_held_for_long() -> None:
    stream = TextStream(BYTES)
    bad = ids_of(BYTES, "न")[1]
    pieces = [stream.push(bad) for _ in range(100)]
    assert 90 < len("".join(pieces)) < 100
    assert max(map(len, pieces)) < 10
    assert "".join([*pieces, stream.finish()]) == "\ufffd" * 100


def test_tokens_without_text_are_not_gathered() -> None:
    stream = TextStream(MARKED, prompt_ids=ids_of(MARKED, "a"))
    assert [stream.push(MARKED.bos_token_id) for _ in range(100)] == [""] * 100
    assert stream.push(MARKED.convert_tokens_to_ids("\u2581a")) == " a"


@given(st.text("ab न🙂é,", max_size=16), STOPS, st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_sentencepiece_model_of_ones_own_gives_the_same_text(text: str, stop: list[str], after: bool) -> None:
    tokenizer = by_sentencepiece()
    ids, prompt = ids_of(tokenizer, text), ids_of(tokenizer, "a b") if after else []
    whole = decoded(tokenizer, [*prompt, *ids])[len(decoded(tokenizer, prompt)) :]
    assert "".join(pieces_of(tokenizer, ids, stop, prompt)) == before_stop(whole, stop)


@given(st.lists(st.integers(0, 280), max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_tokens_of_a_sentencepiece_model_come_to_an_end(ids: list[int]) -> None:
    tokenizer = by_sentencepiece()
    text = "".join(pieces_of(tokenizer, ids))
    if "\ufffd" not in decoded(tokenizer, ids):
        assert text == decoded(tokenizer, ids)


def test_decoding_a_token_looks_at_a_few_tokens_however_long_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, longest = by_sentencepiece(), 0
    decode = tokenizer.decode

    def watched(ids: list[int], **options: Any) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return str(decode(ids, **options))

    monkeypatch.setattr(tokenizer, "decode", watched)
    pieces_of(tokenizer, ids_of(tokenizer, "it is ab नम 🙂 " * 40))
    assert longest < 20


@given(st.text("ab", min_size=1, max_size=6), st.text("abc", max_size=20))
@settings(deadline=None)
def test_a_stop_has_begun_as_far_as_the_text_ends_with_its_beginning(stop: str, text: str) -> None:
    found = StopString(stop)
    for place, letter in enumerate(text, 1):
        complete = found.take(letter)
        said = text[:place]
        wanted = max(length for length in range(len(stop) + 1) if said.endswith(stop[:length]))
        assert (found.begun, complete) == (wanted, wanted == len(stop))
        if complete:
            break


def test_an_empty_stop_is_none() -> None:
    assert "".join(pieces_of(BYTES, ids_of(BYTES, "ab"), [""])) == "ab"
