"""What `POST /v1/completions` takes and answers: text to be continued as it stands."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from adapter_service.api.schemas.fields import Answer
from adapter_service.api.schemas.generation import TokenId
from adapter_service.api.schemas.openai import CompletionUsage, SamplingFields
from adapter_service.errors import InvalidParameterError

PromptIds = Annotated[list[TokenId], Field(min_length=1)]
DEFAULT_MAX_TOKENS = 16


class CompletionBody(SamplingFields):
    """Prompts that go to the base or an adapter as they are, without any chat template."""

    prompt: (
        str | Annotated[list[str], Field(min_length=1)] | PromptIds | Annotated[list[PromptIds], Field(min_length=1)]
    )
    max_tokens: int | None = Field(
        default=None, ge=0, description=f"{DEFAULT_MAX_TOKENS} if not given, as in OpenAI's API; 0 with `echo` alone."
    )
    echo: bool | None = Field(default=None, description="The prompt before its continuation, with its `logprobs`.")
    best_of: int | None = Field(
        default=None,
        ge=1,
        description="So many are made, and the `n` with the highest mean log-probability answered; not with `stream`.",
    )
    logprobs: int | None = Field(default=None, ge=0, le=5, description="So many of the likeliest tokens at each place.")
    suffix: str | None = Field(default=None, description="Empty alone: a text is continued, no gap in it filled.")

    def check(self) -> None:
        super().check()
        n = self.n or 1
        if self.best_of is not None and self.best_of < n:
            raise InvalidParameterError(
                f"'best_of' is {self.best_of} and 'n' {n}; make at least as many as are answered", parameter="best_of"
            )
        if self.best_of is not None and self.best_of > n and self.stream:
            raise InvalidParameterError(
                f"'best_of' is {self.best_of} with a stream of {n}; it picks among whole answers, which a stream "
                "cannot wait for: leave one of them out",
                parameter="best_of",
            )
        if self.scores_prompt and self.stream:
            raise InvalidParameterError(
                "'echo' is given with 'logprobs' and a stream, which would begin before those of the prompt are there: "
                "leave one of them out",
                parameter="echo",
            )
        if self.max_tokens == 0 and not self.echo:
            raise InvalidParameterError(
                "'max_tokens' is 0 without \"echo\": true, which leaves nothing to answer; ask for at least 1",
                parameter="max_tokens",
            )
        if self.suffix:
            raise InvalidParameterError(
                f"'suffix' is {self.suffix[:40]!r}; these bases continue a text and do not fill gaps in it: "
                "leave it out",
                parameter="suffix",
            )

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and self.logprobs is not None


class CompletionLogprobs(Answer):
    """Lists of one length; nothing stands before the first token of an echoed prompt, which has null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str = Field(description="The version that answered, as `adapter@version`, or `base`.")
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
