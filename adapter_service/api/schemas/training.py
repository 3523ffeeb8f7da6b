"""Training requests with the field names of both older specifications, and what a job says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from adapter_service.api.schemas.fields import DEPRECATED, Answer, TraceId, WholeTexts
from adapter_service.errors import InvalidParameterError
from adapter_service.jobs.job import JobStatus, Phase
from adapter_service.jobs.train_request import OVERRIDES, TrainRequest
from adapter_service.settings.section import AdapterName
from adapter_service.settings.sections import SECTIONS

# Older name → the field that it means.
OLDER_NAMES: dict[str, str] = {
    "streaming_source": "source",
    "max_samples": "max_train_samples",
    "adapter_name": "adapter",
    "name": "adapter",
    "epochs": "num_epochs",
    "batch_size": "per_device_train_batch_size",
    "rank": "lora_r",
    "max_seq_len": "max_seq_length",
    "lang": "languages",
    "model_name_or_path": "base_model",
}


def _schema(schema: dict[str, Any]) -> None:
    """Put the bounds and defaults of the settings, and the older names, into the OpenAPI schema."""
    properties = schema["properties"]
    for field, (section, key) in OVERRIDES.items():
        known = SECTIONS[section].model_json_schema()["properties"][key]
        default = known.pop("default", None)
        bounds = known.pop("anyOf", [known])
        properties[field] = {
            "anyOf": [*(b for b in bounds if b.get("type") != "null"), {"type": "null"}],
            "description": f"`{section}.{key}` for this job; without it {default!r} or what the file says.",
        }
    for older, field in OLDER_NAMES.items():
        properties[older] = properties[field] | {
            "description": f"Older name of `{field}`.",
            "deprecated": True,
        }
    properties["lang"]["anyOf"] = [{"type": "string"}, *properties["lang"]["anyOf"]]


class TrainBody(WholeTexts, TrainRequest):
    """What `POST /adapter/train-lite` takes; whatever is left out comes from adapter_config.yaml."""

    model_config = ConfigDict(title="TrainBody", json_schema_extra=_schema, strict=True)

    adapter: AdapterName | None = Field(  # type: ignore[assignment]  # the configured default may be meant
        None, description="The adapter that gets a new version; without it `serving.default_adapter`."
    )
    base_model: str | None = Field(default=None, description="The resident base; any other is refused.")
    use_8bit: bool | None = Field(default=None, description="How the resident base is held; anything else is refused.")
    use_4bit: bool | None = Field(default=None, description="How the resident base is held; anything else is refused.")
    config_path: str | None = Field(
        default=None, description="The configuration in use; never opened.", json_schema_extra=DEPRECATED
    )
    mcp_config_path: str | None = Field(
        default=None, description="The file of sources in use; never opened.", json_schema_extra=DEPRECATED
    )
    trace_id: TraceId | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_todays_names(cls, given: Any) -> Any:
        return todays_names(given) if isinstance(given, Mapping) else given

    def train_request(self, default_adapter: str) -> TrainRequest:
        """The request alone, without what only says which base and files the caller expects."""
        fields = self.model_dump(include=set(TrainRequest.model_fields), exclude_none=True)
        return TrainRequest(**{"adapter": default_adapter, **fields})


def todays_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same body with the names of today.

    Raises:
        InvalidParameterError: two names of one field have different values.
    """
    body: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in given.items():
        field = OLDER_NAMES.get(name, name)
        meant = [value] if name == "lang" and isinstance(value, str) else value
        if field in body and body[field] != meant:
            raise InvalidParameterError(
                f"'{written[field]}' is {body[field]!r} and '{name}' is {meant!r}, but both are '{field}'; "
                "give it once",
                parameter=name,
            )
        body[field], written[field] = meant, name
    return body


class TrainAnswer(Answer):
    """A job that was accepted (or, for a repeated Idempotency-Key, the job that it made then)."""

    job_id: str = Field(examples=["job_01JZ3V7Q5T9Q0ZK3F3W2Y8B6MN"])
    status: JobStatus
    message: str
    created_at: datetime
    estimate: dict[str, Any] = Field(
        description="Samples, steps and, once this machine's speed is known, seconds; in words too.",
        examples=[{"samples": 2000, "steps": 140, "seconds": None, "message": "at most 2000 samples, 140 steps"}],
    )
    trace_id: str


class JobError(Answer):
    code: str = Field(examples=["source_unreachable"])
    message: str


class JobAnswer(Answer):
    """Where a job stands. A gate that says no is a job that *succeeded*; `gate` has its reasons."""

    job_id: str
    adapter: str
    status: JobStatus
    phase: Phase | None
    step: int
    total_steps: int | None
    progress: float = Field(ge=0.0, le=1.0, description="Share of the optimizer steps that are done.")
    seconds_left: float | None
    loss: float | None = Field(
        description="Of the last step, per completion token; a sampled one where details.loss_vocabulary says so."
    )
    tokens_per_second: float | None
    samples: dict[str, Any] = Field(description="Counts of samples: read, used, skipped, …")
    peak_memory_mb: float | None
    gate: dict[str, Any] | None = Field(description="The gate's decision, with reasons; null before it.")
    version: int | None = Field(description="The version that was made, live or rejected.")
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    message: str
    trace_id: str
    attempt: int
    source: str | None
    cancel_requested: bool
    pause_requested: bool = Field(description="Whether the running job was asked to stop until it is resumed.")
    details: dict[str, Any] = Field(description="Everything else that the job reported.")
