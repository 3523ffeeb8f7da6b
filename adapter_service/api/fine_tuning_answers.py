"""Jobs, their events and their versions as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from adapter_service.adapter_names import BASE
from adapter_service.adapters import Version, VersionStatus
from adapter_service.api.errors import without_paths
from adapter_service.api.fine_tuning_ids import shown_event_id, shown_job_id
from adapter_service.api.fine_tuning_requests import shown_file
from adapter_service.api.schemas.fine_tuning import (
    CheckpointMetrics,
    FineTuningCheckpoint,
    FineTuningError,
    FineTuningEvent,
    FineTuningJob,
    UsedHyperparameters,
    UsedMethod,
    UsedSupervised,
)
from adapter_service.api.services import Services
from adapter_service.errors import InvalidInputError, UnknownAdapterError
from adapter_service.jobs.job import Job, JobEvent, JobStatus
from adapter_service.jobs.measured import METRICS
from adapter_service.jobs.train_request import TrainRequest, settings_for
from adapter_service.settings import Settings, TrainingSettings
from adapter_service.settings.sections import loss_name
from adapter_service.training.batching import sequences_per_step

_LEVELS: Mapping[str, Literal["warn", "error"]] = {JobStatus.FAILED: "error", JobStatus.CANCELLED: "warn"}
_MESSAGES = {
    JobStatus.QUEUED: "the job waits in the queue",
    JobStatus.PAUSED: "the job is paused; resuming it puts it back into the queue, at its old place",
    JobStatus.CANCELLED: "the job is cancelled",
    "cancel_requested": "the job was asked to end",
    "pause_requested": "the job was asked to pause",
    "pause_withdrawn": "the job goes on; the pause that it was asked for was withdrawn",
}


def fine_tuning_job(job: Job, services: Services) -> FineTuningJob:
    result, asked = job.result or {}, job.asked or {}
    training = _training(job, services.settings)
    used = _hyperparameters(job, training, services.settings)
    return FineTuningJob(
        id=shown_job_id(job.id),
        created_at=_seconds(job.created_at),
        finished_at=_seconds(job.finished_at) if job.finished_at else None,
        estimated_finish=_estimated_finish(job),
        status=job.status,
        model=asked.get("model") or job.request.get("init_adapter") or BASE,
        fine_tuned_model=result.get("reference") if result.get("version_status") == VersionStatus.LIVE else None,
        training_file=shown_file(job.request.get("source") or services.settings.data.source),
        hyperparameters=used,
        method=UsedMethod(supervised=UsedSupervised(hyperparameters=used)),
        seed=training.seed if training else job.request.get("seed", services.settings.training.seed),
        trained_tokens=_trained_tokens(job),
        error=_error(job),
        metadata=asked.get("metadata"),
    )


def fine_tuning_event(event: JobEvent, job: Job) -> FineTuningEvent:
    """`job` is the one that it happened to, as it is now."""
    message, data = _told(event, job)
    is_rejected = event.kind == JobStatus.SUCCEEDED and data.get("version_status") == VersionStatus.REJECTED
    return FineTuningEvent(
        id=shown_event_id(event.number),
        created_at=_seconds(event.at),
        level="warn" if is_rejected else _LEVELS.get(event.kind, "info"),
        message=without_paths(message),
        type="metrics" if event.kind == METRICS else "message",
        data=data,
    )


def checkpoints(job: Job, services: Services) -> list[FineTuningCheckpoint]:
    """The version that the job made, live or not; what it saves on the way to go on from cannot answer."""
    version = _version_of(job, services)
    if version is None:
        return []
    result = job.result or {}
    training, measured = result.get("training") or {}, (result.get("gate") or {}).get("metrics") or {}
    step = training.get("steps", job.step)
    loss = training.get("last_loss", job.progress.get("loss"))
    return [
        FineTuningCheckpoint(
            id=shown_job_id(job.id).replace("ftjob-", "ftckpt-"),
            created_at=_seconds(version.created_at),
            fine_tuned_model_checkpoint=version.reference,
            fine_tuning_job_id=shown_job_id(job.id),
            step_number=step,
            metrics=CheckpointMetrics(step=step, train_loss=loss, full_valid_loss=measured.get("candidate_loss")),
        )
    ]


def _version_of(job: Job, services: Services) -> Version | None:
    """What the job made, or found made in the same way before; None where it is removed since."""
    reference = (job.result or {}).get("reference")
    if isinstance(reference, str):
        with suppress(UnknownAdapterError):
            return services.versions.resolve(reference)
        return None
    return next((version for version in services.versions.list() if version.job_id == job.id), None)


def _told(event: JobEvent, job: Job) -> tuple[str, dict[str, Any]]:
    """The event in a sentence, and what of it programs may want."""
    data, result = dict(event.data or {}), job.result or {}
    if event.kind == METRICS:
        name = loss_name(data.get("loss_vocabulary", "all"))
        message = f"step {data['step']} of {data['total_steps']}: {name} {data['loss']:.3f}"
        return message, {**data, "train_loss": data["loss"]}
    if event.kind == JobStatus.RUNNING:
        return f"attempt {event.attempt} begins: training {job.adapter!r}", {"attempt": event.attempt}
    if event.kind == JobStatus.SUCCEEDED:
        told = {name: result[name] for name in ("version", "version_status", "gate") if name in result}
        return _verdict(result), told
    if event.kind == JobStatus.FAILED:
        return f"the job failed: {job.error_message}", {"code": job.error_code}
    if event.kind.startswith("phase:"):
        phase = event.kind.removeprefix("phase:")
        return f"the job is {phase}", {"phase": phase}
    return _MESSAGES.get(event.kind, event.kind), data


def _verdict(result: Mapping[str, Any]) -> str:
    reasons = (result.get("gate") or {}).get("reasons") or []
    made = f"{result.get('reference', 'nothing')} is {result.get('version_status', 'made')}"
    return ": ".join([made, " ".join(map(str, reasons))]) if reasons else made


def _training(job: Job, settings: Settings) -> TrainingSettings | None:
    """What the job was trained with, or, while it is not finished, will be; None where today's settings refuse it."""
    recipe = (job.result or {}).get("recipe", {}).get("training")
    try:
        if recipe is not None:
            return TrainingSettings.model_validate(recipe)
        return settings_for(TrainRequest.model_validate(dict(job.request)), settings).training
    except (InvalidInputError, ValueError):  # a row of another release
        return None


def _hyperparameters(job: Job, training: TrainingSettings | None, settings: Settings) -> UsedHyperparameters:
    if training is None:
        return UsedHyperparameters(n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto")
    factor = (job.asked or {}).get("learning_rate_multiplier")
    return UsedHyperparameters(
        n_epochs=training.num_epochs,
        batch_size=sequences_per_step(training),
        learning_rate_multiplier=factor or round(training.learning_rate / settings.training.learning_rate, 6),
    )


def _estimated_finish(job: Job) -> int | None:
    left = job.progress.get("seconds_left")
    if job.status is not JobStatus.RUNNING or left is None:
        return None
    return _seconds(datetime.now(UTC) + timedelta(seconds=left))


def _trained_tokens(job: Job) -> int | None:
    if job.status is not JobStatus.SUCCEEDED:
        return None
    training: Mapping[str, Any] = (job.result or {}).get("training") or {}
    return int(training.get("tokens", 0))


def _error(job: Job) -> FineTuningError | None:
    if job.error_code is None:
        return None
    return FineTuningError(code=job.error_code, message=without_paths(job.error_message or ""), param=None)


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
