"""What one job learns and what it is judged by: the seam between the pipeline and the kinds of datasets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from adapter_service.adapters import Version, VersionStore
from adapter_service.adapters.lease import Lease
from adapter_service.connectors.opening import source_opener
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from adapter_service.jobs.beginning import trained_with
from adapter_service.jobs.evaluating import measure, reread
from adapter_service.jobs.learning import Trained
from adapter_service.jobs.streaming import Streamed, Watch, stream
from adapter_service.jobs.train_request import TrainRequest, going_on_from
from adapter_service.settings import Settings
from adapter_service.training.gate import Decision, decide


class LessonWatch(Watch, Protocol):
    def evaluated(self) -> None:
        """A part of the evaluation is done."""


class Lesson(Protocol):
    """`settings` are the job's own: the service's, with what its request says in their place."""

    settings: Settings

    def begins_with(self, versions: VersionStore) -> str | None:
        """`name` or `name@version` of the adapter to go on from; None for a fresh one. Asked at the first attempt."""

    def going_on(self, parent: Version) -> Settings:
        """`settings` where training goes on from `parent`."""

    def gather(self, settings: Settings, folder: Path, watch: Watch) -> Streamed:
        """The samples, from wherever they are; what was gathered before is kept in `folder`."""

    def judge(
        self,
        settings: Settings,
        streamed: Streamed,
        version: Version,
        trained: Trained | None,
        live: Version | None,
        watch: LessonWatch,
    ) -> Decision:
        """Whether `version` may take the place of `live`, whose files stay, or of nothing.

        `trained` has the weights of a version that is new.
        """


class CorpusLesson:
    """Samples of a configured source, judged by their loss and by generated answers."""

    def __init__(self, request: TrainRequest, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self._request = request
        self._engine = engine

    def begins_with(self, versions: VersionStore) -> str | None:  # noqa: ARG002 - the request names it
        return self._request.init_adapter

    def going_on(self, parent: Version) -> Settings:
        return going_on_from(trained_with(parent), self._request, self.settings)

    def gather(self, settings: Settings, folder: Path, watch: Watch) -> Streamed:
        return stream(settings, source_opener(settings), self._engine, watch, folder, discards_other=True)

    def judge(
        self,
        settings: Settings,
        streamed: Streamed,
        version: Version,
        trained: Trained | None,
        live: Version | None,
        watch: LessonWatch,
    ) -> Decision:
        held, engine = streamed.dataset, self._engine
        weights = trained.adapter if trained else AdapterFiles.of(version)
        candidate = measure(settings, held, engine, watch, weights)
        watch.evaluated()
        if candidate.weights_finite:  # others are not loaded from files at all
            candidate = reread(settings, held, engine, watch, candidate, AdapterFiles.of(version))
            watch.evaluated()
        incumbent = measure(settings, held, engine, watch, AdapterFiles.of(live) if live else None)
        return decide(candidate, incumbent, settings.gate, seed=settings.training.seed)


@contextmanager
def kept(version: Version | None) -> Iterator[None]:
    """Inside its files stay, whoever removes it; that they are gone already is for their reader to say."""
    lease = None
    if version is not None:
        with suppress(FileNotFoundError):
            lease = Lease(version.path)
    try:
        yield
    finally:
        if lease is not None:
            lease.release()
