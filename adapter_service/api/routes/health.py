"""How the service is, and whether it can answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter

from adapter_service import __version__
from adapter_service.api.errors import without_paths
from adapter_service.api.memory import process_memory
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.health import EngineAnswer, HealthAnswer, QueueDepths, ReadyAnswer, RunnerAnswer
from adapter_service.api.services import Services, Wired
from adapter_service.engine.engine import EngineState
from adapter_service.jobs.job import JobStatus

router = APIRouter(tags=["health"])

_STATUS: dict[EngineState, Literal["ok", "loading", "failed", "stopped"]] = {
    "ready": "ok",
    "loading": "loading",
    "failed": "failed",
    "stopped": "stopped",
}


@router.get("/health")
def health(services: Wired) -> HealthAnswer:
    """Answers at once whatever the model does: loads, trains or generates."""
    engine = services.engine
    state = engine.state
    running = services.jobs.list(status=JobStatus.RUNNING, limit=1)
    return HealthAnswer(
        status=_STATUS[state],
        version=__version__,
        started_at=services.started_at,
        uptime_seconds=round((datetime.now(UTC) - services.started_at).total_seconds(), 3),
        engine=EngineAnswer(
            state=state,
            note=without_paths(engine.note),
            answering=engine.answering,
            working=engine.working,
        ),
        runner=RunnerAnswer(alive=services.runner.alive),
        base=services.settings.model.base,
        precision=_precision(services),
        active_job=running[0].id if running else None,
        queues=QueueDepths(requests=engine.waiting, jobs=services.jobs.queue_depth()),
        resident_adapters=engine.resident_adapters(),
        memory=process_memory(),
    )


@router.get("/ready", responses=can_fail_with(503))
def ready(services: Wired) -> ReadyAnswer:
    """200 when the base can answer; 503 with what it is doing until then."""
    _ = services.engine.base  # raises NotReadyError with the note
    return ReadyAnswer(ready=True, note=services.engine.note)


def _precision(services: Services) -> dict[str, str] | None:
    return services.engine.base.precision.to_dict() if services.engine.state == "ready" else None
