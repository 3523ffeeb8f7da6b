"""The form that the text of an answer shall have, in vLLM's words; OpenAI's own are in `tools.py`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from adapter_service.api.schemas.fields import Body

# Whatever is longer is refused sooner than compiled: a pattern of a thousand choices of a thousand letters takes 0.1 s.
_CHOICES = 1000
_CHOICE_LETTERS = 1000
_REGEX_LETTERS = 10_000


class StructuredOutputs(Body):
    """Exactly one of `json`, `regex` and `choice`; the whole answer keeps to it, unless it is cut off."""

    model_config = ConfigDict(serialize_by_alias=True)

    json_schema: dict[str, Any] | None = Field(default=None, alias="json", description="A JSON schema.")
    regex: str | None = Field(
        default=None,
        min_length=1,
        max_length=_REGEX_LETTERS,
        description="A regular expression without look-around and back references, in the syntax of Rust's regex "
        "crate; the whole answer matches it.",
        examples=["[0-9]{4}-[0-9]{2}-[0-9]{2}"],
    )
    choice: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=_CHOICE_LETTERS)]] | None,
        Field(min_length=1, max_length=_CHOICES),
    ] = Field(default=None, description="The answer is one of these texts.", examples=[["good", "bad"]])
    grammar: None = Field(default=None, description="Null alone.")

    @model_validator(mode="before")
    @classmethod
    def _without_grammar(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("grammar") is not None:
            raise ValueError(
                "it has a 'grammar', whose dialect differs from engine to engine, and none is read here; "
                "say the same as 'regex' or 'json'"
            )
        return given

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = {"json": self.json_schema, "regex": self.regex, "choice": self.choice}
        given = [name for name, form in forms.items() if form is not None]
        if len(given) != 1:
            raise ValueError(f"it has {' and '.join(given) or 'no form'}; give exactly one of json, regex and choice")
        return self
