"""The envelope in which hubs queue datasets that they have assembled themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from adapter_service.api.schemas.commands import TrainingParams
from adapter_service.api.schemas.fields import Answer


class ExpectedCall(Answer):
    name: str
    arguments: dict[str, Any]


class QueueExample(Answer):
    voice_command: str
    expected_tool_call: ExpectedCall
    formatted_prompt: str | None = None
    formatted_completion: str | None = None
    formatted_system_prompt: str | None = None


class QueueCommand(Answer):
    command_name: str
    examples: list[QueueExample]


class QueueData(Answer):
    commands: list[QueueCommand]


class DatasetRef(Answer):
    format: Literal["inline-json"]
    data: QueueData


class QueueRequest(Answer):
    node_id: str
    base_model_id: str
    dataset_ref: DatasetRef
    dataset_hash: str | None = None
    params: TrainingParams | None = None
    time_zone: str | None = None


class QueueCallback(Answer):
    """Called when the job has ended, with a signature: its key is the token, or the SHA-256 of the caller's API key."""

    url: str = Field(description="One of commands.callback_urls begins it.")
    auth_type: str | None = None
    token: str | None = None


class QueueBody(Answer):
    job_id: str
    job_type: Literal["adapter_train"]
    job_type_version: Literal["v1"] | None = None
    created_at: str | float | None = None
    priority: Literal["normal", "high"] | None = None
    trace_id: str | None = None
    idempotency_key: str | None = Field(default=None, description="Else the job_id.")
    ttl_seconds: float | None = Field(default=None, description="Else a day.")
    metadata: dict[str, Any] | None = None
    request: QueueRequest
    callback: QueueCallback | None = None


class QueueAnswer(Answer):
    accepted: bool
    job_id: str = Field(description="As the hub called it.")
    deduped: bool


class QueueCancelAnswer(Answer):
    job_id: str
    status: str


class QueueErrorBody(Answer):
    type: str
    message: str
    code: str
    details: list[dict[str, Any]] | None = None


class QueueError(Answer):
    """An error under /llm-proxy."""

    error: QueueErrorBody
