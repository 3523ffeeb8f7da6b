"""Bodies and answers of the API for home hubs and their nodes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from adapter_service.api.schemas.fields import Answer, TraceId

HubStatus = Literal["queued", "running", "complete", "failed", "canceled"]


class ExampleBody(Answer):
    """What somebody may say, and the arguments of the call that is right then."""

    voice_command: str = Field(examples=["Set a timer for ten minutes"])
    expected_parameters: dict[str, Any] = Field(examples=[{"minutes": 10}])
    is_primary: bool = False


class ParameterBody(Answer):
    name: str = Field(examples=["minutes"])
    type: str = Field(examples=["int"], description="int, string, datetime, array<date>, …")
    description: str | None = None
    required: bool = True
    default_value: Any = None
    enum_values: list[Any] | None = None
    options_source: str | None = None
    refinable: bool = False


class AntipatternBody(Answer):
    command_name: str
    description: str


class CommandBody(Answer):
    """One command, as the command SDK describes it."""

    command_name: str = Field(examples=["set_timer"])
    description: str = Field(examples=["Start a countdown"])
    examples: list[ExampleBody]
    parameters: list[ParameterBody] | None = None
    keywords: list[str] | None = None
    rules: list[str] | None = None
    critical_rules: list[str] | None = None
    antipatterns: list[AntipatternBody] | None = None
    proposable_actions: list[str] | None = None
    listening_signal_types: list[str] | None = None
    allow_direct_answer: bool = False
    is_risky: bool = False


class TrainingParams(Answer):
    """The recipe; what is left out is configured in `commands`."""

    rank: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    max_seq_len: int | None = None
    learning_rate: float | None = None
    hf_base_model_id: str | None = None


class CommandTrainingBody(Answer):
    """A node's commands to be learned; every fault is told at once, so nothing of it is checked before it is read."""

    node_id: str | None = Field(default=None, description="May be left out with the node's own key.")
    base_model_id: str = Field(description="What the hub calls a base; commands.base_models says which it is.")
    command_schema: list[CommandBody] | None = None
    available_commands: list[CommandBody] | None = Field(default=None, description="The same under its older name.")
    dataset_hash: str | None = Field(default=None, description="Compared, in our form or either of the older two.")
    params: TrainingParams | None = None
    priority: Literal["normal", "high"] | None = None
    time_zone: str | None = Field(default=None, examples=["Europe/Berlin"])
    trace_id: TraceId | None = None


class CommandTrainingAnswer(Answer):
    job_id: str
    status: HubStatus
    dataset_hash: str
    deduped: bool = Field(description="Whether the same is being trained, or was, so that nothing is trained anew.")
    artifact_url: str | None = Field(description="Signed, where the adapter is there already.")
    node_id: str
    adapter: str
    message: str
    trace_id: str


class ArtifactMetadata(Answer):
    node_id: str
    base_model_id: str
    dataset_hash: str
    adapter_format: Literal["peft_lora"] = "peft_lora"
    adapter: str
    artifact_size_bytes: int | None
    sha256: str | None
    published_at: datetime | None
    expires_at: datetime | None


class HubJobError(Answer):
    code: str
    message: str


class HubJobAnswer(Answer):
    """Where a node's job stands. `gate` has the table by which its adapter was judged."""

    job_id: str
    node_id: str
    base_model_id: str
    dataset_hash: str
    adapter: str
    version: int | None
    status: HubStatus
    phase: str | None
    progress: float = Field(description="0 to 1.")
    progress_pct: int
    seconds_left: float | None
    artifact_url: str | None = Field(description="Signed, once the adapter is there; good until `expires_at`.")
    artifact_metadata: ArtifactMetadata | None
    gate: dict[str, Any] | None
    error: HubJobError | None
    message: str
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    acknowledged_at: datetime | None
    trace_id: str


class RouteContext(Answer):
    rooms: list[str] | None = None
    devices: list[str] | None = None
    time_zone: str | None = Field(default=None, description="Else the one that the node trained with.")


class RouteBody(Answer):
    """A sentence to be routed to one of a node's commands."""

    node_id: str | None = Field(default=None, description="May be left out with the node's own key.")
    text: str = Field(examples=["Wake me tomorrow at seven"])
    context: RouteContext | None = None
    trace_id: TraceId | None = None


class RoutedCall(Answer):
    name: str
    arguments: dict[str, Any] = Field(description="Dates in ISO 8601.")


class RouteAnswer(Answer):
    """One call, or a message where no function fits; `error` where the model's call makes no sense."""

    message: str | None
    tool_calls: list[RoutedCall]
    error: HubJobError | None
    node_id: str
    answered_by: str = Field(description="`adapter@version`, or `base` while the node has no live adapter.")
    by_base: bool
    latency_ms: float
    trace_id: str


class DatePattern(Answer):
    pattern: str
    regex: str
    description: str


class DateKeys(Answer):
    """The words for dates that adapters answer with; what they stand for is resolved by arithmetic."""

    version: str
    static_keys: list[str]
    dynamic_patterns: list[DatePattern]
    notes: dict[str, str]


class HubError(Answer):
    """An error under /api/v0: every fault with its place."""

    error: str = Field(examples=["invalid_schema"])
    details: list[dict[str, Any]] = Field(
        examples=[[{"path": "command_schema[0].examples", "code": "too_few_examples", "message": "it has 1 entries"}]]
    )
    trace_id: str | None = None
