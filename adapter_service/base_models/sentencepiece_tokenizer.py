"""A SentencePiece model as a tokenizer of transformers, token for token and byte for byte what its library does.

transformers' own class over such a model decodes no byte pieces, drops blanks at the ends, and takes
text that looks like `</s>` for the end token. Here the library encodes and decodes; control pieces
never come out of a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import sentencepiece
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from adapter_service.errors import BaseModelError


class SentencePieceTokenizer(SentencePieceBackend):  # type: ignore[misc] # transformers is not looked into
    """Begins a text with the model's begin token, where it has one.

    Raises:
        BaseModelError: the file is no SentencePiece model, or has no end token.
    """

    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, path: Path) -> None:
        pieces = _read(path)
        ids = {"unk": pieces.unk_id(), "bos": pieces.bos_id(), "eos": pieces.eos_id(), "pad": pieces.pad_id()}
        if ids["eos"] < 0:
            raise BaseModelError(
                f"tokenizer {path.name!r} has no end token (its eos_id is -1), so no answer could end; "
                "train the SentencePiece model with an eos_id"
            )
        named = {f"{name}_token": pieces.id_to_piece(number) for name, number in ids.items() if number >= 0}
        others = [
            pieces.id_to_piece(number)
            for number in range(pieces.get_piece_size())
            if pieces.is_control(number) and number not in ids.values()
        ]
        super().__init__(
            vocab_file=str(path),
            **named,
            extra_special_tokens=others,
            special_tokens_pattern="bos" if ids["bos"] >= 0 else "none",
            split_special_tokens=True,  # "</s>" in a text is these four letters
            clean_up_tokenization_spaces=False,
        )

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        # By way of the ids: an unknown letter comes as itself otherwise, and could be taken for a piece.
        return [self.sp_model.id_to_piece(number) for number in self.sp_model.encode(text)]

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.sp_model.id_to_piece(index)) if index < self.vocab_size else ""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return str(self.sp_model.decode_pieces(tokens))

    def _decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:  # noqa: FBT001, FBT002
        """Ids of rows that the base has beyond the vocabulary mean nothing and give nothing."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        known = [number for number in ids if 0 <= number < self.vocab_size]
        special = frozenset(self.all_special_ids)
        if skip_special_tokens:
            return str(self.sp_model.decode([number for number in known if number not in special]))
        return "".join(self._with_names(known, special))

    def _with_names(self, ids: Sequence[int], special: frozenset[int]) -> Iterator[str]:
        for is_special, run in groupby(ids, key=special.__contains__):
            if is_special:
                yield from (self.sp_model.id_to_piece(number) for number in run)
            else:
                yield self.sp_model.decode(list(run))


def _read(path: Path) -> Any:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise BaseModelError(
            f"tokenizer {path.name!r} is no SentencePiece model that can be read; give the .model file that "
            "spm_train wrote, or a folder with tokenizer.json"
        ) from error
