"""What every section of adapter_config.yaml is: frozen, its numbers bounded, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator

from adapter_service import adapter_names

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
Tokens = Annotated[int, Field(ge=1, le=1_048_576)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[int, Field(ge=1, le=65_536)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


def _adapter_name(name: str) -> str:
    if (fault := adapter_names.fault_of(name)) is not None:
        raise ValueError(fault)
    return name


AdapterName = Annotated[
    str, AfterValidator(_adapter_name), WithJsonSchema({"type": "string", "pattern": adapter_names.PATTERN})
]


class Section(BaseModel):
    """A frozen group of keys that refuses unknown ones and numbers that are not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `port: yes`: pydantic would read it as 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and "bool" not in str(field.annotation) and field.annotation is not Any:
            raise ValueError("true and false (yes, no, on, off) are not allowed here; quote a text")
        return value
