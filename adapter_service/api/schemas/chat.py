"""What `POST /v1/chat/completions` takes and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from adapter_service.api.schemas.fields import Answer, Body
from adapter_service.api.schemas.openai import CompletionUsage, FinishWord, SamplingFields, older
from adapter_service.api.schemas.tools import CallBody, CallId, FunctionTool, NamedChoice, ResponseFormat, ToolChoice
from adapter_service.conversation import Turn, TurnRole
from adapter_service.errors import InvalidParameterError

_ROLES: dict[str, TurnRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_KINDS_OF_PART = {"text", "refusal"}


class ContentPart(Body):
    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = Field(default=None, description="An earlier answer's; read as text.")

    @model_validator(mode="after")
    def _has_its_own(self) -> Self:
        other = "refusal" if self.type == "text" else "text"
        if getattr(self, self.type) is None:
            raise ValueError(f"a part of type {self.type!r} has no {self.type!r}; add it")
        if getattr(self, other) is not None:
            raise ValueError(f"a part of type {self.type!r} has {other!r} too; leave that out, or send a part of it")
        return self


class ChatMessage(Body):
    """What one side said; the fields that are left are null, or have no effect."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = Field(default=None, description="Accepted, without effect.")
    tool_calls: list[CallBody] | None = Field(default=None, description="An assistant's alone.")
    tool_call_id: CallId | None = Field(default=None, description="A tool's alone: the call that this came of.")
    refusal: str | None = Field(default=None, description="Of an earlier answer; read as text.")
    annotations: list[Any] | None = Field(default=None, description="Of an earlier answer; without effect.")
    audio: None = None
    function_call: None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text_alone(cls, content: Any) -> Any:
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind not in _KINDS_OF_PART:
                raise ValueError(f"it has a part of type {kind[:40]!r}; this base reads text alone: send text parts")
        return content

    @model_validator(mode="after")
    def _of_its_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a message of role {self.role!r} has 'tool_calls'; those are an assistant's")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("'tool_call_id' belongs to a message of role 'tool', and to no other: mend the role")
        if self.content is None and not (self.tool_calls or self.refusal):
            raise ValueError(f"a message of role {self.role!r} has no 'content'; add it")
        return self

    def turn(self) -> Turn:
        calls = tuple(call.call() for call in self.tool_calls or ())
        return Turn(_ROLES[self.role], self._text() or self.refusal or "", calls, self.tool_call_id)

    def _text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or part.refusal or "" for part in self.content)
        return self.content or ""


class ChatBody(SamplingFields):
    """A conversation, and how its next message shall be made."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(
        default=None,
        ge=1,
        description="At most `serving.max_new_tokens_limit`, which is what holds without it, or what is left of "
        "the base's context.",
    )
    max_tokens: int | None = older("Older name of `max_completion_tokens`.", ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="With `logprobs` alone.")
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = Field(default=None, description="`auto` where there are tools.")
    parallel_tool_calls: bool | None = Field(default=None, description="True if not given: several calls at once.")

    def check(self) -> None:
        super().check()
        older_limit, limit = self.max_tokens, self.max_completion_tokens
        if older_limit is not None and limit is not None and older_limit != limit:
            raise InvalidParameterError(
                f"'max_tokens' is {older_limit} and 'max_completion_tokens' {limit}; send one of them",
                parameter="max_tokens",
            )
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameterError(
                "'top_logprobs' is given without \"logprobs\": true; add that or leave it out", parameter="top_logprobs"
            )
        self._check_tools()
        self._check_forms()

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise InvalidParameterError(
                f"'tools' has more than one function {min(repeated)!r}; give each a name of its own", parameter="tools"
            )
        if not names and self.tool_choice not in {None, "none"}:
            raise InvalidParameterError(
                "'tool_choice' is given without 'tools'; add them or leave it out", parameter="tool_choice"
            )
        if isinstance(self.tool_choice, NamedChoice) and self.tool_choice.function.name not in names:
            raise InvalidParameterError(
                f"'tool_choice' names {self.tool_choice.function.name!r}; the tools are {', '.join(names)}: name one",
                parameter="tool_choice",
            )

    def _check_forms(self) -> None:
        wants_json = self.response_format is not None and self.response_format.type != "text"
        if wants_json and self.structured_outputs is not None:
            raise InvalidParameterError(
                "'structured_outputs' and 'response_format' both give the answer's form; leave one of them out",
                parameter="structured_outputs",
            )
        field = "response_format" if wants_json else "structured_outputs"
        if self.may_call and (wants_json or self.structured_outputs is not None):
            raise InvalidParameterError(
                f"'{field}' gives the answer's form while 'tools' may be called, and one grammar cannot tell them "
                'apart; leave one of them out, or send "tool_choice": "none"',
                parameter=field,
            )

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedChoice)

    @property
    def wanted_tokens(self) -> tuple[str, int | None]:
        """The limit on new tokens that was given, and the field's name."""
        if self.max_completion_tokens is not None or self.max_tokens is None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens


class TopLogprob(Answer):
    token: str
    bytes: list[int] | None
    logprob: float


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Answer):
    content: list[TokenLogprob]
    refusal: None = None


class AnsweredFunction(Answer):
    name: str
    arguments: str = Field(description="The JSON of an object; cut where the answer reached its limit.")


class AnsweredCall(Answer):
    id: str
    type: Literal["function"] = "function"
    function: AnsweredFunction


class AnsweredMessage(Answer):
    role: Literal["assistant"] = "assistant"
    content: str | None = Field(description="Null where tools are called.")
    refusal: None = None
    tool_calls: list[AnsweredCall] | None = Field(default=None, exclude_if=lambda calls: calls is None)


class ChatChoice(Answer):
    index: int
    message: AnsweredMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishWord


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str = Field(description="The version that answered, as `adapter@version`, or `base`.")
    system_fingerprint: str = Field(description="Changes when the base, its template or this service does.")
    choices: list[ChatChoice]
    usage: CompletionUsage
