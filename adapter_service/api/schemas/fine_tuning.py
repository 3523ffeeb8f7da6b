"""Fine-tuning jobs, with the fields that OpenAI's clients know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from adapter_service.api.schemas.fields import Answer, Body, QueryParameters
from adapter_service.jobs.job import JobStatus
from adapter_service.settings.section import AdapterName
from adapter_service.settings.sections import TrainingSettings

_BOUNDS = TrainingSettings.model_json_schema()["properties"]

Auto = Literal["auto"]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class Hyperparameters(Body):
    """`auto`, like a field that is left out, is what adapter_config.yaml says."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=_BOUNDS["num_epochs"]["maximum"])] = Field(
        default="auto", description="`training.num_epochs`."
    )
    batch_size: Auto | Annotated[int, Field(ge=1, le=_BOUNDS["per_device_train_batch_size"]["maximum"])] = Field(
        default="auto",
        description="Samples in an optimizer step: `training.per_device_train_batch_size`, with one accumulation step.",
    )
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0.0, le=1000.0)] = Field(
        default="auto", description="Times the configured `training.learning_rate`."
    )


class Supervised(Body):
    hyperparameters: Hyperparameters | None = None


class Method(Body):
    type: Literal["supervised"]
    supervised: Supervised | None = None


class FineTuningBody(Body):
    """What is left out comes from adapter_config.yaml."""

    model: str = Field(
        min_length=1,
        max_length=100,
        description="`base`, or an adapter (`name`, `name@version`) to go on from.",
        examples=["base"],
    )
    training_file: str = Field(
        min_length=1,
        max_length=1000,
        description="The id of an uploaded file, or `source:` and the name of a configured source.",
        examples=["source:multilingual_corpus"],
    )
    validation_file: str | None = Field(
        default=None, description="Has to be null: the gate holds out samples of the training file itself."
    )
    hyperparameters: Hyperparameters | None = Field(default=None, description="Older place of those in `method`.")
    method: Method | None = None
    suffix: AdapterName | None = Field(
        default=None,
        description="The adapter that gets a new version; without it the one that `model` names, "
        "for the base `serving.default_adapter`.",
    )
    seed: Annotated[int, Field(ge=0, le=_BOUNDS["seed"]["maximum"])] | None = None
    metadata: Metadata | None = None
    integrations: list[Any] | None = Field(default=None, max_length=0, description="None are there.")


class FineTuningError(Answer):
    code: str
    message: str
    param: str | None


class UsedHyperparameters(Answer):
    """`auto` where the job is not finished and its settings are refused by the configuration of today."""

    n_epochs: int | Auto
    batch_size: int | Auto
    learning_rate_multiplier: float | Auto


class UsedSupervised(Answer):
    hyperparameters: UsedHyperparameters


class UsedMethod(Answer):
    type: Literal["supervised"] = "supervised"
    supervised: UsedSupervised


class FineTuningJob(Answer):
    """A job of `POST /adapter/train-lite` or of this API; `job_<id>` there is `ftjob-<id>` here."""

    id: str = Field(examples=["ftjob-01JZ3V7Q5T9Q0ZK3F3W2Y8B6MN"])
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None = Field(description="Of a running job, as far as this machine's speed is known.")
    status: JobStatus = Field(
        description="A version that the gate rejected is of a job that succeeded, whose `fine_tuned_model` is null."
    )
    model: str = Field(description="What training began with: `base`, or an adapter.")
    fine_tuned_model: str | None = Field(description="`adapter@version`, once it went live.")
    training_file: str
    validation_file: None = None
    result_files: list[str] = Field(default=[], max_length=0)
    hyperparameters: UsedHyperparameters
    method: UsedMethod
    seed: int
    trained_tokens: int | None = Field(
        description="Of the finished job, over all epochs; 0 if nothing was to be trained."
    )
    error: FineTuningError | None
    metadata: dict[str, str] | None
    integrations: list[str] = Field(default=[], max_length=0)
    organization_id: str = Field(default="", description="There is one organization.")


class FineTuningJobList(Answer):
    object: Literal["list"] = "list"
    data: list[FineTuningJob]
    has_more: bool


class FineTuningEvent(Answer):
    id: str = Field(examples=["ftevent-17"])
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class FineTuningEventList(Answer):
    object: Literal["list"] = "list"
    data: list[FineTuningEvent]
    has_more: bool


class CheckpointMetrics(Answer):
    step: int | None
    train_loss: float | None = Field(description="Of the last step, per completion token.")
    full_valid_loss: float | None = Field(description="On what the gate held out, per completion token.")


class FineTuningCheckpoint(Answer):
    id: str = Field(examples=["ftckpt-01JZ3V7Q5T9Q0ZK3F3W2Y8B6MN"])
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str = Field(description="`adapter@version`: what requests may name as their model.")
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


class FineTuningCheckpointList(Answer):
    object: Literal["list"] = "list"
    data: list[FineTuningCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PageQuery(QueryParameters):
    after: str | None = Field(default=None, max_length=100, description="The last one of the page before.")
    limit: int = Field(default=20, ge=1, le=1000)


class CheckpointQuery(PageQuery):
    limit: int = Field(default=10, ge=1, le=1000)


class JobListQuery(PageQuery):
    """`metadata[key]=value` may stand in it any number of times, so that its other fields are checked by the route."""

    model_config = ConfigDict(extra="allow")

    metadata: Literal["null"] | None = Field(
        default=None, description="`metadata[key]=value`: jobs that have it; `metadata=null`: jobs without metadata."
    )
