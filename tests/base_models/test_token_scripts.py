"""Which tokens have letters of another script."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from adapter_service.base_models.token_scripts import TokenScripts

CPU = torch.device("cpu")
TEXTS = ["a", "नमस्ते", " और", "pageটি", "1, 2", "�", "漢", "かな", "<end>", "کتاب", "ℝ", " μ", "αβ"]


class Words:
    """A tokenizer whose tokens are those texts; one of them is a sign of its own."""

    added_tokens_decoder: ClassVar = {8: object()}

    def __len__(self) -> int:
        return len(TEXTS)

    def get_vocab(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(TEXTS)}

    def decode(self, ids: list[int]) -> str:
        return "".join(TEXTS[number] for number in ids)


@pytest.mark.parametrize(
    ("script", "foreign"),
    [
        ("Deva", ["a", "pageটি", "漢", "かな", "کتاب", "αβ"]),
        ("Beng", ["a", "नमस्ते", " और", "pageটি", "漢", "かな", "کتاب", "αβ"]),
        ("Jpan", ["a", "नमस्ते", " और", "pageটি", "کتاب", "αβ"]),
        ("Latn", ["नमस्ते", " और", "pageটি", "漢", "かな", "کتاب", "αβ"]),
        ("Arab", ["a", "नमस्ते", " और", "pageটি", "漢", "かな", "αβ"]),
        ("Cyrl", ["a", "नमस्ते", " और", "pageটি", "漢", "かな", "کتاب", "αβ"]),
    ],
)
def test_a_token_with_any_letter_of_another_script_is_foreign(script: str, foreign: list[str]) -> None:
    found = TokenScripts(Words()).foreign(script, len(TEXTS), CPU)
    assert [text for text, one in zip(TEXTS, found.tolist(), strict=True) if one] == foreign


def test_places_of_the_vocabulary_that_are_no_tokens_are_of_every_script() -> None:
    found = TokenScripts(Words()).foreign("Deva", 16, CPU)
    assert found.shape == (16,)
    assert not found[len(TEXTS) :].any()
    assert TokenScripts(Words()).foreign("Deva", 2, CPU).tolist() == [1.0, 0.0]


def test_of_a_real_tokenizer_foreign_tokens_are_those_whose_text_has_foreign_letters(small_base: Any) -> None:
    found = TokenScripts(small_base.tokenizer).foreign("Grek", 49_152, CPU)
    latin, digits, greek = (small_base.tokenizer(text)["input_ids"] for text in (" house", "2 + 3", "α"))
    assert found[latin].all()
    assert not found[torch.tensor([*digits, *greek, small_base.tokenizer.eos_token_id])].any()


def test_ids_may_have_gaps() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    unknown, signs = {"unk_token": "<unk>"}, {"unk_token": "<unk>", "eos_token": "<end>"}
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "क": 2, "b": 7, "<end>": 9}, **unknown))
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **signs)
    assert TokenScripts(tokenizer).foreign("Deva", 12, CPU).nonzero()[:, 0].tolist() == [1, 7]
