"""What `POST /generate-lite` takes and answers, older fields included."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from adapter_service.api.schemas.fields import DEPRECATED, Answer, Body, TraceId

StopText = Annotated[str, Field(min_length=1, max_length=200)]
TokenId = Annotated[int, Field(ge=0)]
# Of an answer, which its asker may hand to /rl/collect as it came.
Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
Word = Annotated[str, Field(min_length=1, max_length=1000)]


class GenerateBody(Body):
    """One prompt. Greedy, unless `do_sample` is true or, where it is left out, `temperature`, `top_p` or
    `top_k` is given.
    """

    prompt: str = Field(
        min_length=1, description="What shall be answered.", examples=["Translate to Hindi: Good morning"]
    )
    lang: str | None = Field(
        default=None,
        max_length=100,
        description="Of the answer, which keeps to its script: a BCP-47 tag or a name. Without it, the one that the "
        "prompt asks for.",
        examples=["hi", "hi-Deva-IN", "Hindi"],
    )
    adapter: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Name or `name@version`; `base` is the base alone. Without it the configured default.",
        examples=["multilingual", "multilingual@3", "base"],
    )
    max_new_tokens: int | None = Field(default=None, ge=1, description="At most `serving.max_new_tokens_limit`.")
    min_new_tokens: int = Field(default=0, ge=0, description="No end of the answer before so many tokens.")
    temperature: float | None = Field(default=None, ge=0.0, le=2.0, description="0 is greedy.")
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000, description="0 is all.")
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10.0, description="Of tokens already generated.")
    foreign_script_penalty: float | None = Field(
        default=None,
        ge=0.0,
        le=100.0,
        description="Nats off tokens with letters of another script than the answer's language, where that is known.",
    )
    lora_scale: float | None = Field(
        default=None, ge=0.0, le=10.0, description="The adapter at so many times its strength."
    )
    do_sample: bool | None = Field(
        default=None, description="False is greedy, whatever temperature, top_p and top_k say."
    )
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="The same seed gives the same answer.")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = Field(
        default=None, description="Texts before which the answer ends."
    )
    eos_token_id: TokenId | Annotated[list[TokenId], Field(max_length=16)] | None = Field(
        default=None, description="Token ids that end the answer too."
    )
    stream: bool = Field(default=False, description="Server-sent events: `token`, then `done` or `error`.")
    return_tokens: bool = Field(
        default=False, description="Answer with token ids, log-probabilities and hashes too, as RL trainers want them."
    )
    trace_id: TraceId | None = None
    adapter_path: str | None = Field(
        default=None,
        max_length=1000,
        description='Older name of `adapter`; a name or "none", never a path.',
        json_schema_extra=DEPRECATED,
    )
    base_model: str | None = Field(
        default=None,
        max_length=1000,
        description="The resident base; any other is refused.",
        json_schema_extra=DEPRECATED,
    )

    def stop_texts(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def eos_ids(self) -> frozenset[int]:
        return frozenset({self.eos_token_id} if isinstance(self.eos_token_id, int) else self.eos_token_id or ())


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SampledWith(Body):
    """How the tokens were chosen, with the service's defaults where the request said nothing."""

    do_sample: bool
    temperature: float
    top_p: float
    top_k: Number
    repetition_penalty: float
    script: str | None = Field(default=None, max_length=4, description="ISO 15924; null is any.")
    foreign_script_penalty: float = 0.0
    max_new_tokens: Number
    min_new_tokens: Number
    seed: Number | None
    lora_scale: float = Field(default=1.0, description="So many times its strength the adapter had.")


class TokenDetails(Body):
    """The answer as the model made it; the three lists of the completion have one length."""

    prompt_ids: list[Number] = Field(description="What the model read, template and begin token included.")
    completion_ids: list[Number] = Field(
        description="What it chose: the end token included where it came, and tokens behind a stop text."
    )
    logprobs: list[float] = Field(
        description="Of the policy: natural logarithm of each token's share at temperature 1, before penalty, "
        "least length, top-k and top-p."
    )
    sampling_logprobs: list[float] | None = Field(
        description="Of the distribution that it was drawn from, after all of them; 0 for greedy decoding, and null "
        "where a server of others drew (backend.kind), which does not tell."
    )
    sampling: SampledWith
    base_model: Word
    base_sha: Word = Field(description="Changes when the base's weights do.")
    tokenizer_sha: Word = Field(description="Changes when text becomes other tokens.")
    template_sha: Word | None = Field(description="Of the chat template; null where the prompt went in as it stands.")
    adapter_key: Word | None = Field(description="Content key of the adapter's version; null for the base.")

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        told = (self.completion_ids, self.logprobs, self.sampling_logprobs)
        lengths = [len(values) for values in told if values is not None]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"completion_ids, logprobs and sampling_logprobs have {lengths} members; give as many each"
            )
        return self


class GenerateAnswer(Answer):
    """The answer alone, without the prompt."""

    text: str = Field(examples=["सुप्रभात"])
    generated_text: str = Field(description="The same as `text`, for older clients.", examples=["सुप्रभात"])
    lang: str | None = Field(
        description="The language asked for, else the one detected; null where the text is too short to tell it "
        "from others of its script (less than three words or twelve letters).",
        examples=["hi"],
    )
    lang_tag: str | None = Field(description="With script and region, for a speech engine.", examples=["hi-Deva-IN"])
    lang_ok: bool | None = Field(
        description="Whether script and language are those asked for; null when none was.", examples=[True]
    )
    adapter: str = Field(description="The adapter that answered, or `base`.", examples=["multilingual"])
    version: int | None = Field(description="Its version; null for the base.", examples=[3])
    usage: Usage
    tokens: TokenDetails | None = Field(default=None, description="Null unless `return_tokens` asks for them.")
    finish_reason: Literal["stop", "length", "cancelled"]
    latency_ms: float = Field(description="From the request's arrival to this answer.")
    trace_id: str
