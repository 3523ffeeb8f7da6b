"""The real application over small parts: an engine whose base is still loading, or the small real base."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api import create_app
from adapter_service.api.services import MakePipeline, Pipeline, Services, build_services
from adapter_service.engine.loading import LoadBase
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.settings import (
    ModelSettings,
    SecuritySettings,
    ServingSettings,
    Settings,
    SourceEntry,
    StorageSettings,
)
from tests.api.listening import listening
from tests.conftest import SMALL_BASE
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    import openai

    from adapter_service.model_utils import BaseModel

RECORDS = [
    {"source": "Good morning", "target": "सुप्रभात", "language": "hi"},
    {"source": "Thank you", "target": "धन्यवाद", "language": "hi"},
    {"source": "Water", "target": "पानी", "language": "hi"},
    {"source": "Broken"},
]


class QuickPipeline(Pipeline):
    """Trains nothing: a job ends at once with what it was asked."""

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        return {"asked": dict(job.request)}

    def estimate(self, request: TrainRequest) -> Mapping[str, Any]:
        return {"samples": 3, "steps": 1, "seconds": None, "message": "3 samples, 1 step"}

    def forget(self, job_id: str) -> None:
        """Nothing was kept."""


def settings_in(state_dir: Path, **sections: Any) -> Settings:
    sources = {
        "small": SourceEntry(name="small", kind="memory", options={"format": "parallel", "items": RECORDS}),
        "other": SourceEntry(
            name="other",
            kind="http",
            options={"url": "https://user:pw@data.example/x?token=abc", "headers": {"X-Key": "geheim"}},
        ),
        "gone": SourceEntry(
            name="gone", kind="http", options={"url": "http://127.0.0.1:9/x.jsonl", "allow_private": True}
        ),
    }
    defaults: dict[str, Any] = {
        "model": ModelSettings(base=SMALL_BASE),
        "serving": ServingSettings(queue_size=4),
        "security": SecuritySettings(raw_sources=["https://data.example/"]),
        "storage": StorageSettings(state_dir=state_dir),
        "sources": sources,
        "config_path": state_dir / "adapter_config.yaml",
    }
    values = {**defaults, **sections}
    values["data"] = values.get("data") or Settings().data.model_copy(update={"source": "small"})
    return Settings(**values)


MakeServices = Callable[..., Services]


@pytest.fixture
def make_services(tmp_path: Path) -> Iterator[MakeServices]:
    """Services in a folder of their own; without `load_base` their base never stops loading."""
    made: list[Services] = []
    waiting = threading.Event()

    def wait(note: Callable[[str], None]) -> BaseModel:
        note("loading, for ever")
        waiting.wait()
        raise AssertionError("the test is over")

    def make(
        make_pipeline: MakePipeline = lambda *_: QuickPipeline(), load_base: LoadBase = wait, **sections: Any
    ) -> Services:
        settings = settings_in(tmp_path / "state", **sections)
        services = build_services(settings, load_base=load_base, make_pipeline=make_pipeline)
        made.append(services)
        return services

    yield make
    for services in made:
        services.database.close()
    gc.unfreeze()  # a service freezes what there is when its base is loaded; here that is a test's


def client_of(services: Services, peer: str = "127.0.0.1") -> TestClient:
    """A client that has not started the service; `with` it, it does."""
    return TestClient(create_app(services=services), base_url="http://127.0.0.1", client=(peer, 50000))


@pytest.fixture
def services(make_services: MakeServices) -> Services:
    return make_services()


@pytest.fixture
def client(services: Services) -> TestClient:
    return client_of(services)


@pytest.fixture(scope="session")
def model_services(small_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The small real base behind a running engine."""
    settings = settings_in(tmp_path_factory.mktemp("served"))
    services = build_services(settings, load_base=lambda note: small_base, make_pipeline=lambda *_: QuickPipeline())
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    yield services
    services.stop()


@pytest.fixture
def model_client(model_services: Services) -> TestClient:
    return client_of(model_services)


@pytest.fixture(scope="session")
def tiny_services(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The random tiny base behind a running engine."""
    settings = settings_in(tmp_path_factory.mktemp("tiny-served"))
    services = build_services(settings, load_base=lambda note: tiny_base, make_pipeline=lambda *_: QuickPipeline())
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    yield services
    services.stop()


@pytest.fixture(scope="session")
def tiny_address(tiny_services: Services) -> Iterator[str]:
    with listening(tiny_services) as address:
        yield address


@pytest.fixture(scope="session")
def model_address(model_services: Services) -> Iterator[str]:
    with listening(model_services) as address:
        yield address


@pytest.fixture
def tiny_openai(tiny_address: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client at a service over the tiny base; it tries nothing twice."""
    with openai_client(tiny_address) as client:
        yield client


@pytest.fixture
def model_openai(model_address: str) -> Iterator[openai.OpenAI]:
    """The same over the small real base."""
    with openai_client(model_address) as client:
        yield client


def openai_client(address: str) -> openai.OpenAI:
    import openai

    return openai.OpenAI(base_url=f"{address}/v1", api_key="none is needed", max_retries=0)
