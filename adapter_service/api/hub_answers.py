"""A node's job as hubs read it: its row, and where its adapter is on the way to the node."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adapter_service.adapters import VersionStatus
from adapter_service.api import job_answers
from adapter_service.api.errors import without_paths
from adapter_service.api.schemas.commands import ArtifactMetadata, HubJobAnswer, HubJobError, HubStatus
from adapter_service.api.services import Services
from adapter_service.delivery.deliveries import Delivery, DeliveryStatus
from adapter_service.errors import StoreError, UnknownArtifactError
from adapter_service.jobs.delivering import went_live
from adapter_service.jobs.job import Job, JobStatus, Phase

_STATUS: Mapping[JobStatus, HubStatus] = {
    JobStatus.QUEUED: "queued",
    JobStatus.PAUSED: "queued",
    JobStatus.RUNNING: "running",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "canceled",
}
_DELIVERED: Mapping[DeliveryStatus, HubStatus] = {
    DeliveryStatus.PENDING: "running",
    DeliveryStatus.PUBLISHED: "complete",
    DeliveryStatus.DELETED: "complete",
    DeliveryStatus.FAILED: "failed",
    DeliveryStatus.WITHDRAWN: "canceled",
}


def hub_status(job: Job, delivery: Delivery | None) -> HubStatus:
    """A job whose adapter was rejected has failed, to a hub; one that is still to be uploaded runs."""
    if job.status is not JobStatus.SUCCEEDED:
        return _STATUS[job.status]
    if not went_live(job):
        return "failed"
    return "canceled" if delivery is None else _DELIVERED[delivery.status]


def hub_answer(job: Job, services: Services) -> HubJobAnswer:
    delivery = services.hub.deliveries.get(job.id)
    status, told = hub_status(job, delivery), {**job.progress, **(job.result or {})}
    progress = 1.0 if status == "complete" else job_answers.progress(job)
    url = artifact_url(delivery, services)
    phase = Phase.PUBLISHING if status == "running" and job.status.finished else job.phase
    return HubJobAnswer(
        job_id=job.id,
        node_id=job.node_id or "",
        base_model_id=str(job.request["base_model_id"]),
        dataset_hash=str(job.request["dataset_hash"]),
        adapter=job.adapter,
        version=told.get("version"),
        status=status,
        phase=phase,
        progress=progress,
        progress_pct=int(100 * progress),
        seconds_left=None if job.status.finished else told.get("seconds_left"),
        artifact_url=url,
        artifact_metadata=_metadata(delivery) if status == "complete" else None,
        gate=told.get("gate"),
        error=_error(job, delivery, status),
        message=_message(job, delivery, status, url, services),
        cancel_requested=job.cancel_requested,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        acknowledged_at=delivery.acknowledged_at if delivery else None,
        trace_id=job.trace_id,
    )


def artifact_url(delivery: Delivery | None, services: Services) -> str | None:
    """Signed, where there is something to be fetched."""
    if delivery is None or delivery.status is not DeliveryStatus.PUBLISHED or delivery.object_key is None:
        return None
    if delivery.expires_at is None or _is_over(delivery):
        return None
    try:
        return services.hub.artifacts.url(delivery.object_key, node_id=delivery.node_id, expires_at=delivery.expires_at)
    except (StoreError, UnknownArtifactError):
        return None


def _is_over(delivery: Delivery) -> bool:
    """Whether what was published is deleted, or about to be."""
    expired = delivery.expires_at is not None and delivery.expires_at <= datetime.now(UTC)
    return expired or delivery.acknowledged_at is not None or delivery.status is DeliveryStatus.DELETED


def _metadata(delivery: Delivery | None) -> ArtifactMetadata | None:
    if delivery is None:
        return None
    return ArtifactMetadata(
        node_id=delivery.node_id,
        base_model_id=delivery.base_model_id,
        dataset_hash=delivery.dataset_hash,
        adapter=delivery.adapter,
        artifact_size_bytes=delivery.size_bytes,
        sha256=delivery.sha256,
        published_at=delivery.published_at,
        expires_at=delivery.expires_at,
    )


def _error(job: Job, delivery: Delivery | None, status: HubStatus) -> HubJobError | None:
    if status != "failed":
        return None
    if job.error_code:
        return HubJobError(code=job.error_code, message=without_paths(job.error_message or ""))
    if delivery is not None:
        return HubJobError(code="upload_failed", message=without_paths(delivery.reason or ""))
    return HubJobError(code="gate_rejected", message=" ".join(_reasons(job)))


def _message(job: Job, delivery: Delivery | None, status: HubStatus, url: str | None, services: Services) -> str:
    if delivery is None or status == "failed":
        return job_answers.message(job, services)
    if status == "running":
        why = f": {delivery.reason}" if delivery.reason else ""
        return without_paths(f"{_place(delivery, services)} and is on its way to the store{why}")
    if status == "canceled":
        return without_paths(f"the adapter was not published: {delivery.reason}")
    if _is_over(delivery):
        return "the node has its adapter, or its time is over; post the same commands again to have it published again"
    if url is None:
        return f"{_place(delivery, services)} and published, but no URL of it can be signed now; ask again"
    return f"{_place(delivery, services)}, and can be fetched at artifact_url"


def _place(delivery: Delivery, services: Services) -> str:
    """Whether the job's own version answers here, or another has taken its place."""
    version = services.versions.find(delivery.adapter, delivery.version_key)
    is_live = version is not None and version.status is VersionStatus.LIVE
    return "the adapter is live here" if is_live else "the adapter of these commands is not live here any more"


def _reasons(job: Job) -> list[str]:
    gate: Any = (job.result or {}).get("gate") or {}
    return [str(reason) for reason in gate.get("reasons", ())]
