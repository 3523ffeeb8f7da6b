"""Tokens of the resident base."""

from __future__ import annotations

from fastapi import APIRouter

from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.tokens import DetokenizeAnswer, DetokenizeBody, TokenizeAnswer, TokenizeBody
from adapter_service.api.services import Wired
from adapter_service.api.token_limits import check_token_ids

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
    check_token_ids({"ids": body.ids}, base)
    text: str = base.tokenizer.decode(
        body.ids, skip_special_tokens=body.skip_special_tokens, clean_up_tokenization_spaces=False
    )
    return DetokenizeAnswer(text=text)
