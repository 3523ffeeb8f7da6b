"""Tokens of the resident base."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.tokens import DetokenizeAnswer, DetokenizeBody, TokenizeAnswer, TokenizeBody
from adapter_service.api.services import Wired
from adapter_service.errors import InvalidParameterError

router = APIRouter(tags=["generation"], responses=can_fail_with(503))


@router.post("/tokenize")
def tokenize(body: TokenizeBody, services: Wired) -> TokenizeAnswer:
    """Text to token ids, without any chat template."""
    tokenizer = services.engine.base.tokenizer
    ids: list[int] = tokenizer(body.text, add_special_tokens=body.add_special_tokens)["input_ids"]
    return TokenizeAnswer(ids=ids, tokens=tokenizer.convert_ids_to_tokens(ids), count=len(ids))


@router.post("/detokenize")
def detokenize(body: DetokenizeBody, services: Wired) -> DetokenizeAnswer:
    """Token ids to text."""
    base = services.engine.base
    _check_ids(body.ids, base.tokenizer, base.name)
    text: str = base.tokenizer.decode(
        body.ids, skip_special_tokens=body.skip_special_tokens, clean_up_tokenization_spaces=False
    )
    return DetokenizeAnswer(text=text)


def _check_ids(ids: list[int], tokenizer: Any, base: str) -> None:
    size = len(tokenizer)
    if (unknown := next((token for token in ids if not 0 <= token < size), None)) is not None:
        raise InvalidParameterError(
            f"'ids' has {unknown}; {base} has the tokens 0 to {size - 1}: leave it out", parameter="ids"
        )
