"""The parts that routes work with: made once, started together, stopped in order."""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from adapter_service.adapters import VersionStatus, VersionStore
from adapter_service.adapters.uploads import Uploads
from adapter_service.api.answer_forms import AnswerForms
from adapter_service.api.episode_log import EpisodeLog
from adapter_service.api.hub import Hub, build_hub
from adapter_service.api.loaded_adapters import LoadedAdapters
from adapter_service.backends.opening import open_backend
from adapter_service.database import Database
from adapter_service.engine.engine import Engine
from adapter_service.engine.loading import LoadBase, base_loader
from adapter_service.engine.pinning import PinnedAdapters
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import AdapterServiceError
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.file_store import FileStore
from adapter_service.jobs.history import JobHistory
from adapter_service.jobs.job import Job
from adapter_service.jobs.leftovers import remove_leftovers
from adapter_service.jobs.logs import JobLogs
from adapter_service.jobs.ownership import Ownership
from adapter_service.jobs.runner import Runner
from adapter_service.jobs.store import JobStore
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.publishing.opening import open_store
from adapter_service.publishing.sender import Sender
from adapter_service.settings import Settings
from adapter_service.storage_faults import check_storage

# Training ends at its next layer, answers at their next token; a stalled source or a base that loads takes longer.
STOP_SECONDS = 2.0
# An upload under way is not waited for: it goes on at the next start with the file that it was at.
SENDER_STOP_SECONDS = 1.0
EPISODES_STOP_SECONDS = 0.5


class Pipeline(Protocol):
    """What runs a job, and says beforehand how long that will take."""

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]: ...

    def estimate(self, request: TrainRequest) -> Mapping[str, Any]: ...

    def forget(self, job_id: str) -> None:
        """Remove what was kept of a job that has ended."""


MakePipeline = Callable[[Settings, Engine, VersionStore, Path, FileStore, JobStore], Pipeline]


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may use; it is `app.state.services`."""

    settings: Settings
    database: Database
    ownership: Ownership
    jobs: JobStore
    history: JobHistory
    files: FileStore
    logs: JobLogs
    versions: VersionStore
    engine: Engine
    pipeline: Pipeline
    runner: Runner
    uploads: Uploads
    sender: Sender
    pinned: PinnedAdapters
    episodes: EpisodeLog
    loaded_adapters: LoadedAdapters
    answer_forms: AnswerForms
    hub: Hub
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def start(self) -> None:
        self.ownership.take()
        remove_leftovers(self.settings.storage.state_dir, self.jobs, self.versions)
        self.files.tidy()
        self.engine.when_settled(self._base_settled)
        if self.engine.backend is not None:
            self.engine.backend.when_answering(self.pinned.wake)
        self.engine.start()
        self.runner.start()
        self.versions.when_live(self._went_live)
        self.sender.start()
        self.hub.start()
        self.pinned.start()
        self.episodes.start()

    def _base_settled(self) -> None:
        # A full collection looks at every object that the libraries made and holds up all threads meanwhile:
        # measured, 220 to 420 ms, each time in the middle of a job or an answer. They stay for good anyway.
        gc.collect()
        gc.freeze()
        self.runner.wake()
        self.pinned.wake()
        self.hub.wake()

    def _went_live(self) -> None:
        self.sender.wake()
        self.pinned.wake()
        if self.engine.backend is not None:
            self.engine.backend.look_at_live()

    def begin_to_stop(self, drain_seconds: float) -> None:
        """Tell all that runs to end, and wait for nothing: the job is saved, answers have so many seconds to end."""
        self.runner.stop(timeout=0)
        self.engine.stop(timeout_seconds=0, drain_seconds=drain_seconds)

    def stop(self) -> None:
        """The running job goes back to the queue and the engine ends where it is, then the database is closed."""
        ends_at = time.monotonic() + STOP_SECONDS
        self.begin_to_stop(self.settings.serving.drain_seconds)
        self.pinned.stop()
        self.sender.stop(SENDER_STOP_SECONDS)
        self.hub.stop(SENDER_STOP_SECONDS)
        self.engine.stop(max(0.0, ends_at - time.monotonic()))
        if not self.runner.stop(max(0.0, ends_at - time.monotonic())):
            self._give_back()
        self.episodes.stop(EPISODES_STOP_SECONDS)  # the last answers have come
        self.database.close()
        self.ownership.release()

    def _give_back(self) -> None:
        """Queue the job whose source keeps it from stopping: the end of the service is no crash of the job's."""
        with suppress(AdapterServiceError, sqlite3.Error):  # it has just ended, or is put back at the next start
            if (job_id := self.runner.attempting) is not None:
                self.jobs.put_back(self.jobs.get(job_id))


def build_services(
    settings: Settings, *, load_base: LoadBase | None = None, make_pipeline: MakePipeline | None = None
) -> Services:
    """Make all parts in `settings.storage.state_dir`; nothing is started, loaded or connected to."""
    state = settings.storage.state_dir
    database = Database(state / "service.db")
    publishing = settings.publishing
    versions = VersionStore(database, state / "adapters", stores=[store.name for store in publishing.stores])
    jobs, uploads = JobStore(database), Uploads(database)
    stores = {store.name: partial(open_store, store, state) for store in publishing.stores}
    backend = open_backend(settings, partial(_live_of_base, versions))
    engine = Engine(load_base or base_loader(settings), settings.serving, backend)
    files = FileStore(database, state / "files", min_free_mb=settings.storage.min_free_mb)
    pipeline = (make_pipeline or _training_pipeline)(settings, engine, versions, state / "work", files, jobs)
    logs = JobLogs(state / "logs")
    hub = build_hub(settings, database, jobs, versions, engine)

    def forget(job_id: str) -> None:
        """A job has ended: its files go, and what it has made is on its way."""
        pipeline.forget(job_id)
        hub.wake()

    return Services(
        settings=settings,
        database=database,
        ownership=Ownership(state),
        jobs=jobs,
        history=JobHistory(database),
        files=files,
        logs=logs,
        versions=versions,
        engine=engine,
        pipeline=pipeline,
        runner=Runner(
            jobs,
            pipeline,
            logs,
            forget=forget,
            ready=lambda: engine.state == "ready",
            check_storage=partial(check_storage, state, min_free_mb=settings.storage.min_free_mb),
        ),
        uploads=uploads,
        sender=Sender(uploads, versions, stores, max_attempts=publishing.max_attempts),
        pinned=PinnedAdapters(engine, partial(_live_files, versions), settings.serving.pinned_adapters),
        episodes=EpisodeLog(settings.rl, state / "episodes"),
        loaded_adapters=LoadedAdapters(versions, engine),
        answer_forms=AnswerForms(engine),
        hub=hub,
    )


def _live_of_base(versions: VersionStore, base_id: str) -> list[AdapterFiles]:
    """The live versions of a base, the latest first."""
    live = [one for one in versions.list() if one.status is VersionStatus.LIVE and one.base_id == base_id]
    return [AdapterFiles.of(one) for one in sorted(live, key=lambda one: one.created_at, reverse=True)]


def _live_files(versions: VersionStore, name: str) -> AdapterFiles | None:
    version = versions.live(name)
    return AdapterFiles.of(version) if version else None


def _training_pipeline(
    settings: Settings, engine: Engine, versions: VersionStore, work_dir: Path, files: FileStore, jobs: JobStore
) -> Pipeline:
    from adapter_service.jobs.pipeline import TrainingPipeline

    pipeline: Pipeline = TrainingPipeline(settings, engine, versions, work_dir, files, jobs)
    return pipeline


async def _services_of(request: Request) -> Services:
    # A plain function would wait for one of the web server's threads, and they may all be busy.
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(_services_of)]
