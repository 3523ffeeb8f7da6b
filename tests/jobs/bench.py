"""All that runs a training job, without HTTP: the tiny base, real store, versions, runner and pipeline."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapter_service.adapters import Version, VersionStore
from adapter_service.database import Database
from adapter_service.engine.engine import Engine
from adapter_service.jobs.job import Job, JobStatus, Phase
from adapter_service.jobs.logs import JobLogs
from adapter_service.jobs.pipeline import TrainingPipeline
from adapter_service.jobs.runner import Runner
from adapter_service.jobs.store import JobStore
from adapter_service.samples import is_held_out
from adapter_service.settings import Settings, SourceEntry

Record = dict[str, Any]
WORDS = {"a": "alpha", "b": "beta", "c": "gamma", "d": "delta"}
HOLDOUT = 0.3


def toy_records(per_letter: int = 20) -> list[Record]:
    """A task that can be learned and not merely remembered: the first letter decides the answer."""
    return [
        {"prompt": f"{letter}{number}", "completion": word}
        for number in range(per_letter)
        for letter, word in WORDS.items()
    ]


def key_of(record: Record) -> str:
    from adapter_service.samples import Message, Sample

    return Sample((Message("user", record["prompt"]), Message("assistant", record["completion"]))).key


def shuffled(records: list[Record]) -> list[Record]:
    """Wrong answers where they are trained on, and the right ones where they are held out."""
    answers = [record["completion"] for record in records]
    wrong = [{**record, "completion": answers[(place * 7 + 3) % len(answers)]} for place, record in enumerate(records)]
    held_out = [record for record in records if is_held_out(key_of(record), HOLDOUT)]
    return held_out + [record for record in wrong if not is_held_out(key_of(record), HOLDOUT)]


def local_source(name: str, folder: Path, records: list[Record], **options: Any) -> SourceEntry:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return SourceEntry(name=name, kind="local", options={"path": str(path), "format": "completion", **options})


def toy_settings(*sources: SourceEntry, **sections: Mapping[str, Any]) -> Settings:
    """Seconds on any machine: rank 8, thirty steps of eight."""
    values: dict[str, dict[str, Any]] = {
        "lora": {"r": 8, "alpha": 16},
        "training": {
            "num_epochs": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "max_seq_length": 64,
            "token_budget": 128,
            "save_steps": 5,
        },
        "data": {"source": sources[0].name if sources else "toy", "shuffle_buffer": 0},
        "gate": {"holdout_fraction": HOLDOUT, "min_holdout_samples": 5, "generate_samples": 3},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Settings.model_validate({**values, "sources": {source.name: source for source in sources}})


class TellingStore(JobStore):
    """The store, telling tests when an attempt has ended and, through `on_progress`, how a job goes."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.changed = threading.Condition()
        self.on_progress: Callable[[Job], object] = lambda job: None
        self.seen: list[Job] = []

    def progress(self, job: Job, **told: Any) -> Job:
        now = super().progress(job, **told)
        self.seen.append(now)
        self.on_progress(now)
        return now

    def put_back(self, job: Job) -> Job:
        return self._told(super().put_back(job))

    def broke_off(self, job: Job, code: str, message: str) -> Job:
        return self._told(super().broke_off(job, code, message))

    def _finish(self, job: Job, status: JobStatus, **outcome: Any) -> Job:
        return self._told(super()._finish(job, status, **outcome))

    def _told(self, job: Job) -> Job:
        with self.changed:
            self.changed.notify_all()
        return job


class Bench:
    """One start of the service; a second one in the same folder is the next start."""

    def __init__(self, folder: Path, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.database = Database(folder / "service.db")
        self.store = TellingStore(self.database)
        self.versions = VersionStore(self.database, folder / "adapters")
        self.work_dir = folder / "work"
        self.pipeline = TrainingPipeline(settings, engine, self.versions, self.work_dir)
        self.logs = JobLogs(folder / "logs")
        ticks = itertools.count()  # a second passes from report to report, so that every one is written
        self.runner = Runner(
            self.store,
            self.pipeline,
            self.logs,
            forget=self.pipeline.forget,
            monotonic=lambda: float(next(ticks)),
        )

    def submit(self, adapter: str = "toy", **request: Any) -> Job:
        """A request that waits until the runner is started, or woken."""
        body = {"adapter": adapter, **request}
        return self.store.create(body, adapter=adapter, trace_id="t", queue_limit=9)

    def run(self, adapter: str = "toy", **request: Any) -> Job:
        """A request, to its end."""
        job = self.submit(adapter, **request)
        if not self.runner._thread.is_alive():
            self.runner.start()
        self.runner.wake()
        return self.ended(job)

    def ended(self, job: Job) -> Job:
        """Wait until `job` runs no more."""

        def is_over() -> bool:
            now = self.store.get(job.id)
            return now.status.finished or (now.status is JobStatus.QUEUED and now.attempt > job.attempt)

        with self.store.changed:
            assert self.store.changed.wait_for(is_over, timeout=240)
        return self.store.get(job.id)

    def version_of(self, job: Job) -> Version:
        assert job.result is not None, job.error_message
        return self.versions.resolve(job.result["reference"])

    def log_of(self, job: Job) -> str:
        return "\n".join(self.logs.read(job.id, limit=10_000).lines)

    def phases(self) -> list[Phase | None]:
        return [phase for phase, _ in itertools.groupby(job.phase for job in self.store.seen)]

    def close(self) -> None:
        assert self.runner.stop(timeout=240)
        self.database.close()
