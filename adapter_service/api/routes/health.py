"""How the service is, and whether it can answer."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter

from adapter_service import __version__
from adapter_service.api.errors import without_paths
from adapter_service.api.memory import process_memory
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.health import (
    BackendAnswer,
    BackendServerAnswer,
    EngineAnswer,
    HealthAnswer,
    KernelAnswer,
    QueueDepths,
    ReadyAnswer,
    RunnerAnswer,
    StorageAnswer,
)
from adapter_service.api.services import Services, Wired
from adapter_service.base_models.locating import public_name
from adapter_service.engine.backend import Backend
from adapter_service.engine.engine import EngineState
from adapter_service.errors import StorageError
from adapter_service.jobs.job import JobStatus
from adapter_service.storage_faults import storage_fault

if TYPE_CHECKING:
    from adapter_service.engine.kernels import Kernel

router = APIRouter(tags=["health"])

_Status = Literal["ok", "degraded", "loading", "failed", "stopped"]
_STATUS: dict[EngineState, _Status] = {
    "ready": "ok",
    "loading": "loading",
    "failed": "failed",
    "stopped": "stopped",
}


# The web server's threads may all wait: for a locked database, for sources that stall.
_own_thread = ThreadPoolExecutor(1, "health")


@router.get("/health")
async def health(services: Wired) -> HealthAnswer:
    """Answers at once whatever the model does: loads, trains or generates."""
    return await asyncio.get_running_loop().run_in_executor(_own_thread, _look_at, services)


def _look_at(services: Services) -> HealthAnswer:
    engine = services.engine
    state = engine.state
    active_job, waiting_jobs, unreadable = _jobs(services)
    storage = _storage(services, unreadable)
    return HealthAnswer(
        status="degraded" if state == "ready" and not (storage.ok and _answers(engine.backend)) else _STATUS[state],
        version=__version__,
        started_at=services.started_at,
        uptime_seconds=round((datetime.now(UTC) - services.started_at).total_seconds(), 3),
        engine=EngineAnswer(
            state=state,
            note=without_paths(engine.note),
            answering=engine.active > 0,
            batch_invariant=engine.is_batch_invariant,
            kernel=_kernel(engine.kernel),
            training_share=round(engine.training_share, 3),
            working=engine.working,
        ),
        backend=_backend(engine.backend),
        runner=RunnerAnswer(alive=services.runner.alive),
        base=public_name(services.settings.model.base),
        precision=_precision(services),
        storage=storage,
        active_job=active_job,
        queues=QueueDepths(requests=engine.waiting, jobs=waiting_jobs),
        resident_adapters=engine.resident_adapters(),
        memory=process_memory(),
    )


def _jobs(services: Services) -> tuple[str | None, int | None, StorageError | None]:
    """The running job, how many wait, and why neither is known where the database cannot be read."""
    try:
        running = services.jobs.list(status=JobStatus.RUNNING, limit=1)
        return (running[0].id if running else None), services.jobs.queue_depth(), None
    except sqlite3.Error as error:
        if (fault := storage_fault(error)) is None:
            raise
        return None, None, fault


def _storage(services: Services, unreadable: StorageError | None) -> StorageAnswer:
    fault = unreadable or services.database.fault or services.runner.fault
    try:
        free_mb = round(shutil.disk_usage(services.settings.storage.state_dir).free / 2**20, 1)
    except OSError:
        free_mb = None
    return StorageAnswer(ok=fault is None, detail=without_paths(str(fault)) if fault else None, free_mb=free_mb)


@router.get("/ready", responses=can_fail_with(503))
async def ready(services: Wired) -> ReadyAnswer:
    """200 when requests are answered; 503 with why not, or what it is doing until then."""
    services.engine.check_answering()
    return ReadyAnswer(ready=True, note=services.engine.note)


def _answers(backend: Backend | None) -> bool:
    return backend is None or backend.fault is None


def _backend(backend: Backend | None) -> BackendAnswer | None:
    if backend is None:
        return None
    servers = [
        BackendServerAnswer(name=name, ok=fault is None, detail=without_paths(fault) if fault else None)
        for name, fault in backend.servers
    ]
    return BackendAnswer(kind=backend.kind, ok=backend.fault is None, servers=servers)


def _kernel(kernel: Kernel | None) -> KernelAnswer | None:
    if kernel is None:
        return None
    return KernelAnswer(
        name=kernel.name,
        weights=kernel.weights,
        reason=without_paths(kernel.reason_now),
        gigabytes_per_second=kernel.gigabytes_per_second,
        prompts="compiled" if kernel.reads_prompts else "modules",
    )


def _precision(services: Services) -> dict[str, str] | None:
    return services.engine.base.precision.to_dict() if services.engine.state == "ready" else None
