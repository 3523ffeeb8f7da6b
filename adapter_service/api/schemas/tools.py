"""Tools, calls of them, and the form of an answer, in the body of `POST /v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from adapter_service.api.schemas.fields import Body, half_character
from adapter_service.conversation import Tool, ToolCall

_NONE: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
FUNCTION_NAME_PATTERN = "^[a-zA-Z0-9_-]{1,64}$"
FunctionName = Annotated[str, Field(pattern=FUNCTION_NAME_PATTERN)]
CallId = Annotated[str, Field(min_length=1, max_length=200)]


def _object_as_text(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error}); send the call's arguments as they came") from error
    if not isinstance(value, dict):
        raise ValueError("it is not the JSON of an object; send the call's arguments as they came")
    if found := half_character(value):
        raise ValueError(f"in its JSON, {found[1]}")
    return text


class FunctionDefinition(Body):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema of an object.")
    strict: bool | None = Field(default=None, description="Calls that are required keep to the schema either way.")


class FunctionTool(Body):
    type: Literal["function"]
    function: FunctionDefinition

    def tool(self) -> Tool:
        """Without parameters it takes an empty object and nothing else."""
        given = self.function
        return Tool(given.name, given.parameters or _NONE, given.description or "")


class NamedFunction(Body):
    name: FunctionName


class NamedChoice(Body):
    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


class CalledFunction(Body):
    name: FunctionName
    arguments: Annotated[str, AfterValidator(_object_as_text)]


class CallBody(Body):
    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction

    def call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class NamedSchema(Body):
    model_config = ConfigDict(serialize_by_alias=True)

    name: FunctionName
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema", description="None is any object.")
    strict: bool | None = Field(default=None, description="The answer keeps to the schema either way.")


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
