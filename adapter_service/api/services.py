"""The parts that routes work with: made once, started together, stopped in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from adapter_service.adapters import VersionStore
from adapter_service.api.episode_log import EpisodeLog
from adapter_service.database import Database
from adapter_service.engine.engine import Engine
from adapter_service.engine.loading import LoadBase, base_loader
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job
from adapter_service.jobs.leftovers import remove_leftovers
from adapter_service.jobs.logs import JobLogs
from adapter_service.jobs.runner import Runner
from adapter_service.jobs.store import JobStore
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.settings import Settings

# A training loop notices within one micro-step; on a slow processor that is some seconds.
STOP_SECONDS = 30.0
EPISODES_STOP_SECONDS = 0.5


class Pipeline(Protocol):
    """What runs a job, and says beforehand how long that will take."""

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]: ...

    def estimate(self, request: TrainRequest) -> Mapping[str, Any]: ...


MakePipeline = Callable[[Settings, Engine, VersionStore, Path], Pipeline]


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may use; it is `app.state.services`."""

    settings: Settings
    database: Database
    jobs: JobStore
    logs: JobLogs
    versions: VersionStore
    engine: Engine
    pipeline: Pipeline
    runner: Runner
    episodes: EpisodeLog
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def start(self) -> None:
        remove_leftovers(self.settings.storage.state_dir, self.jobs, self.versions)
        self.engine.when_settled(self.runner.wake)
        self.engine.start()
        self.runner.start()
        self.episodes.start()

    def stop(self) -> None:
        """The running job goes back to the queue, then the engine ends, then the database is closed."""
        self.runner.stop(STOP_SECONDS)
        self.engine.stop(STOP_SECONDS)
        self.runner.stop(STOP_SECONDS)  # a job that did not stop by itself has ended with the engine
        self.episodes.stop(EPISODES_STOP_SECONDS)  # the last answers have come
        self.database.close()


def build_services(
    settings: Settings, *, load_base: LoadBase | None = None, make_pipeline: MakePipeline | None = None
) -> Services:
    """Make all parts in `settings.storage.state_dir`; nothing is started, loaded or connected to."""
    state = settings.storage.state_dir
    database = Database(state / "service.db")
    jobs, versions = JobStore(database), VersionStore(database, state / "adapters")
    engine = Engine(load_base or base_loader(settings), queue_size=settings.serving.queue_size)
    pipeline = (make_pipeline or _training_pipeline)(settings, engine, versions, state / "work")
    logs = JobLogs(state / "logs")
    return Services(
        settings=settings,
        database=database,
        jobs=jobs,
        logs=logs,
        versions=versions,
        engine=engine,
        pipeline=pipeline,
        runner=Runner(jobs, pipeline, logs, ready=lambda: engine.state == "ready"),
        episodes=EpisodeLog(settings.rl, state / "episodes"),
    )


def _training_pipeline(settings: Settings, engine: Engine, versions: VersionStore, work_dir: Path) -> Pipeline:
    from adapter_service.jobs.pipeline import TrainingPipeline

    pipeline: Pipeline = TrainingPipeline(settings, engine, versions, work_dir)
    return pipeline


def _services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(_services_of)]
