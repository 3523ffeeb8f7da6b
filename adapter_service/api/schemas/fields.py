"""What several requests and answers share: their base classes, and the trace id."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

# ASCII, because the trace id is echoed in a header.
TRACE_ID = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
TRACE_ID_PATTERN = f"^{TRACE_ID.pattern}$"
TRACE_ID_WISH = "1 to 128 printable ASCII characters are wanted, no blank at either end: change it"

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


class Body(BaseModel):
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
