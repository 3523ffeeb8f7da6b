"""Models as OpenAI's clients list them: the base, and every adapter that answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adapter_service.api.schemas.fields import Answer, QueryParameters


class ModelAnswer(Answer):
    id: str = Field(description="What a request names as its `model`.", examples=["multilingual"])
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time in seconds.")
    owned_by: Literal["adapter-service"] = "adapter-service"
    root: str = Field(description="The base's own name, or the version that answers.", examples=["multilingual@3"])
    parent: str | None = Field(description="`base` for an adapter; null for the base.")
    max_model_len: int | None = Field(description="Tokens of prompt and answer; null while the base loads.")


class ModelList(Answer):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class ModelQuery(QueryParameters):
    versions: bool = Field(default=False, description="Every version too, not only what is live.")
