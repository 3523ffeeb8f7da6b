"""What every source may say, whatever its kind: which fields, which languages, how many."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapter_service.errors import InvalidParameterError
from adapter_service.languages import find

RecordFormat = Literal["text", "completion", "chat", "parallel"]

# Field → whether a record without it is a bad record.
FIELDS: dict[RecordFormat, dict[str, bool]] = {
    "text": {"text": True, "language": False},
    "completion": {"prompt": True, "completion": True, "language": False},
    "chat": {"messages": True, "language": False},
    "parallel": {"source": True, "target": True, "language": True, "source_language": False},
}


class SourceSpec(BaseModel):
    """The options that all kinds share; a kind's own spec adds to them.

    `fields` says under which name a record has what the format wants (`{source: en, target: text}`;
    a dot goes into an object: `translation.hi`); `defaults` says what a record without the field means.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: RecordFormat = "text"
    fields: dict[str, str] = {}
    defaults: dict[str, str] = {}
    languages: list[str] = []
    max_samples: int | None = Field(default=None, ge=1)
    note: str = ""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        wanted = FIELDS[self.format]
        for option, given in (("fields", self.fields), ("defaults", self.defaults)):
            if unknown := sorted(given.keys() - wanted.keys()):
                raise ValueError(
                    f"{option} has {', '.join(map(repr, unknown))}; format '{self.format}' "
                    f"has the fields {', '.join(wanted)}"
                )
        return self

    @model_validator(mode="after")
    def _languages_are_known(self) -> Self:
        of_defaults = (value for field, value in self.defaults.items() if field.endswith("language"))
        for language in (*self.languages, *of_defaults):
            known_tag(language)
        return self


def known_tag(language: str) -> str:
    try:
        return find(language).tag
    except InvalidParameterError as error:
        # pydantic turns only a ValueError into a fault of the settings.
        raise ValueError(str(error)) from error


def names_of(spec: SourceSpec) -> dict[str, Any]:
    """Field → the name under which a record has it."""
    return {field: spec.fields.get(field, field) for field in FIELDS[spec.format]}
