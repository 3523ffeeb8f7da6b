"""What the requests and answers of OpenAI's generation routes share.

Optional fields may be null, which is as if they were left out. Beyond OpenAI's own fields stand those of vLLM
that mean the same here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adapter_service.api.schemas.fields import DEPRECATED, Answer, Body
from adapter_service.api.schemas.generation import StopText, TokenId
from adapter_service.api.schemas.structured_outputs import StructuredOutputs
from adapter_service.errors import InvalidParameterError

IGNORED = "Accepted, without effect."
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
BIASED_ID_PATTERN = r"^\d{1,9}$"
TokenKey = Annotated[str, Field(pattern=BIASED_ID_PATTERN)]
FinishWord = Literal["stop", "length", "tool_calls"]


class StreamOptions(Body):
    include_usage: bool | None = Field(default=None, description="One more event before the last, with the usage.")
    include_obfuscation: bool | None = Field(default=None, description=IGNORED)


class SamplingFields(Body):
    """Defaults are OpenAI's own, with one addition; see `openai_sampling.py`."""

    model: str = Field(
        max_length=1000,
        description="`base`, the name of an adapter (its live version answers) or `adapter@version`.",
        examples=["base", "multilingual", "multilingual@3"],
    )
    temperature: float | None = Field(default=None, ge=0.0, le=2.0, description="1 if not given; 0 is greedy.")
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    n: int | None = Field(default=None, ge=1, description="So many answers to one prompt.")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = Field(
        default=None, description="Texts before which an answer ends; not a call that `tool_choice` demands."
    )
    seed: int | None = Field(
        default=None,
        ge=-(2**63),
        le=2**63 - 1,
        description="The same seed gives the same answers; the second answer has seed + 1, and so on.",
    )
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenKey, Bias] | None = Field(
        default=None, max_length=1024, description="By token id, as text; added to its logit."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(default=None, description="With `stream` alone.")
    top_k: int | None = Field(default=None, ge=-1, le=1_000_000, description="0 and -1 are all.")
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    repetition_penalty: float | None = Field(
        default=None,
        ge=0.01,
        le=10.0,
        description="Of tokens already generated. Not given, an adapter's free text has `serving.repetition_penalty`.",
    )
    foreign_script_penalty: float | None = Field(
        default=None,
        ge=0.0,
        le=100.0,
        description="Nats off tokens with letters of another script than the answer's language, where the last "
        "user message asks for one. Not given, an adapter's free text has `serving.foreign_script_penalty`.",
    )
    lora_scale: float | None = Field(
        default=None, ge=0.0, le=10.0, description="The adapter at so many times its strength."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=16)] | None = Field(
        default=None, description="Token ids that end the answer too."
    )
    min_tokens: int | None = Field(default=None, ge=0, description="No end of the answer before so many tokens.")
    structured_outputs: StructuredOutputs | None = Field(
        default=None, description="The form that an answer is held to, in vLLM's words."
    )
    user: str | None = Field(default=None, description=IGNORED)
    metadata: dict[str, str] | None = Field(default=None, description=IGNORED)
    store: bool | None = Field(default=None, description=IGNORED)
    service_tier: str | None = Field(default=None, description=IGNORED)
    reasoning_effort: str | None = Field(default=None, description=IGNORED)
    verbosity: str | None = Field(default=None, description=IGNORED)
    prompt_cache_key: str | None = Field(default=None, description=IGNORED)
    safety_identifier: str | None = Field(default=None, description=IGNORED)

    def check(self) -> None:
        """What a schema cannot say.

        Raises:
            InvalidParameterError: fields do not fit together.
        """
        if self.stream_options is not None and not self.stream:
            raise InvalidParameterError(
                "'stream_options' is given without \"stream\": true; leave it out or ask for a stream",
                parameter="stream_options",
            )

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def stop_texts(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class PromptTokensDetails(Answer):
    cached_tokens: int = Field(description="Of the prompt's, those that were computed for an earlier request.")


class CompletionUsage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class OpenAIErrorBody(Answer):
    message: str = Field(description="What was found, what is allowed, what to do next.")
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field at fault, as the caller wrote it.")
    code: str = Field(examples=["model_not_found"])


class OpenAIError(Answer):
    """An error under /v1."""

    error: OpenAIErrorBody


def older(description: str, **bounds: Any) -> Any:
    """A field that OpenAI's own documentation calls deprecated, and clients send."""
    return Field(default=None, description=description, json_schema_extra=DEPRECATED, **bounds)
