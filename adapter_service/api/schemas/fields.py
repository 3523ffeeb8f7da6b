"""What several requests and answers share: their base classes, and the trace id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from adapter_service.trace_ids import TRACE_ID

TRACE_ID_PATTERN = f"^{TRACE_ID.pattern}$"

TraceId = Annotated[
    str,
    Field(
        pattern=TRACE_ID_PATTERN,
        description="1 to 128 printable ASCII characters; goes before X-Trace-Id and X-Request-ID.",
        examples=["order-4711"],
    ),
]
# Not pydantic's own `deprecated`, which warns the service whenever it reads the field.
DEPRECATED: JsonDict = {"deprecated": True}

HALF_A_CHARACTER = "half_a_character"
_SURROGATE = re.compile("[\ud800-\udfff]")


def half_character(given: Any) -> tuple[str, str] | None:
    """The first text in decoded JSON with half of a surrogate pair, which is in no UTF-8: where, and what about it.

    Names of fields are texts too. Without recursion: tools' schemas may lie as deep as JSON's parser goes.
    """
    rest = [("", given)]
    while rest:
        where, value = rest.pop()
        if isinstance(value, str):
            if not value.isascii() and (found := _SURROGATE.search(value)):
                return where, f"{f'{where!r}' if where else 'the text'} has {_half(found[0])}"
        elif isinstance(value, Mapping):
            for name in value:
                if not name.isascii() and (found := _SURROGATE.search(name)):
                    return where, f"the name of a field {f'in {where!r} ' if where else ''}has {_half(found[0])}"
            members = [(f"{where}.{name}" if where else name, member) for name, member in value.items()]
            rest += reversed(members)
        elif isinstance(value, list):
            places = [(place, member) for place, member in enumerate(value) if isinstance(member, str | Mapping | list)]
            rest += [(f"{where}[{place}]", member) for place, member in reversed(places)]
    return None


def _half(found: str) -> str:
    return f"half a character (\\u{ord(found):04x} without its other half); send both halves, or take it out"


class WholeTexts(BaseModel):
    """A body every text of which can be written in UTF-8."""

    @model_validator(mode="before")
    @classmethod
    def _without_half_characters(cls, given: Any) -> Any:
        if found := half_character(given):
            where, sentence = found
            raise PydanticCustomError(HALF_A_CHARACTER, "{sentence}", {"where": where, "sentence": sentence})
        return given


class Body(WholeTexts):
    """What a caller sends: unknown fields are refused, and "5" is not 5."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class QueryParameters(BaseModel):
    """What stands behind `?`: unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FollowQuery(QueryParameters):
    follow: bool = Field(default=False, description="Server-sent events as they come, until the job has ended.")


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Fault(Answer):
    parameter: str | None
    message: str


class Problem(Answer):
    """An error, as RFC 9457 has it. Programs compare `code`, people read `detail`."""

    type: str = Field(examples=["urn:adapter-service:problem:unknown_adapter"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What was found, what is allowed, what to do next.")
    code: str = Field(examples=["unknown_adapter"])
    instance: str | None = Field(default=None, description="The path that was asked.")
    trace_id: str | None = None
    parameter: str | None = Field(default=None, description="The field at fault, as the caller wrote it.")
    errors: list[Fault] | None = Field(default=None, description="Every field at fault, for a body that is refused.")
