"""Text to tokens of the resident base, and back."""

from __future__ import annotations

from pydantic import Field

from adapter_service.api.schemas.fields import Answer, Body


class TokenizeBody(Body):
    text: str = Field(examples=["सुप्रभात"])
    add_special_tokens: bool = True


class TokenizeAnswer(Answer):
    ids: list[int]
    tokens: list[str] = Field(description="As the vocabulary writes them.")
    count: int


class DetokenizeBody(Body):
    ids: list[int] = Field(examples=[[2, 236769]])
    skip_special_tokens: bool = True


class DetokenizeAnswer(Answer):
    text: str
