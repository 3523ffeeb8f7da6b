"""What the service says of itself."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from adapter_service.api.schemas.fields import Answer
from adapter_service.settings import KernelName


class KernelAnswer(Answer):
    """How tokens are made after the prompt, and prompts are read."""

    name: KernelName = Field(
        description="As in `serving.kernel`; `modules` are transformers' own, `graphs` those as CUDA graphs."
    )
    weights: str = Field(description="Which numbers a step reads.", examples=["bfloat16"])
    reason: str
    gigabytes_per_second: float | None = Field(
        description="Of weights, by steps of one row as probed at the start; null for `modules` and `graphs`."
    )
    prompts: Literal["compiled", "modules"] = Field(
        description="How prompts are read: compiled where that was faster at the start, else by transformers' modules."
    )


class EngineAnswer(Answer):
    state: Literal["loading", "ready", "failed", "stopped"]
    note: str = Field(description="What it is doing, in words.", examples=["loading package:gemma3-270m"])
    answering: bool
    batch_invariant: bool | None = Field(
        description="Whether a seed gives the same text whatever else is answered at the time, as probed at the start; "
        "null before the base is loaded, and where servers of others answer."
    )
    kernel: KernelAnswer | None = Field(description="Null before the base is loaded.")
    training_share: float = Field(description="Of the model's time in the last half minute in which it was busy.")
    working: bool = Field(description="Whether a job trains or is evaluated just now.")


class BackendServerAnswer(Answer):
    name: str = Field(examples=["gpu-1:8000"])
    ok: bool
    detail: str | None = Field(description="Why it does not answer now.")


class BackendAnswer(Answer):
    """Servers of others that answer in the engine's place."""

    kind: str = Field(description="As in `backend.kind`.", examples=["vllm"])
    ok: bool = Field(description="Whether a request is answered now.")
    servers: list[BackendServerAnswer]


class RunnerAnswer(Answer):
    alive: bool = Field(description="Whether queued jobs are run; false means that the service has to be restarted.")


class StorageAnswer(Answer):
    ok: bool
    detail: str | None = Field(description="What is wrong with the disk or the state database, and what to do.")
    free_mb: float | None = Field(description="Free on the disk of the state folder; null where it cannot be asked.")


class QueueDepths(Answer):
    requests: int
    jobs: int | None = Field(description="Null where the state database cannot be read.")


class MemoryAnswer(Answer):
    """Megabytes; null where this system does not say."""

    resident_mb: float | None
    peak_mb: float | None
    gpu_mb: float | None


class HealthAnswer(Answer):
    status: Literal["ok", "degraded", "loading", "failed", "stopped"] = Field(
        description="`degraded`: nothing can be kept, or no server of the back end answers; `storage` and `backend` "
        "say why."
    )
    version: str
    started_at: datetime
    uptime_seconds: float
    engine: EngineAnswer
    backend: BackendAnswer | None = Field(description="Null where the engine itself answers.")
    runner: RunnerAnswer
    storage: StorageAnswer
    base: str
    precision: dict[str, str] | None = Field(
        description="Device, dtype, quantization, threads and why; null before the base is loaded."
    )
    active_job: str | None
    queues: QueueDepths
    resident_adapters: list[str]
    memory: MemoryAnswer


class ReadyAnswer(Answer):
    ready: Literal[True]
    note: str
