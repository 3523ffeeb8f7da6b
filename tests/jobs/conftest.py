"""The tiny base behind a running engine, shared: a job changes nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapter_service.engine.engine import Engine
from adapter_service.settings import Settings
from tests.jobs.bench import Bench, local_source, toy_records, toy_settings
from tests.waiting import READY_SECONDS

MakeBench = Callable[..., Bench]


@pytest.fixture(scope="session")
def engine(tiny_base_folder: Path) -> Iterator[Engine]:
    def load(note: Callable[[str], None]) -> object:
        from adapter_service.model_utils import load_base

        return load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="float32", note=note)

    engine = Engine(load)  # type: ignore[arg-type]
    engine.start()
    engine.wait_until_ready(READY_SECONDS)
    yield engine
    engine.stop()


@pytest.fixture
def make_bench(tmp_path: Path, engine: Engine) -> Iterator[MakeBench]:
    """Benches in one folder; without settings they learn the toy task."""
    made: list[Bench] = []

    def make(settings: Settings | None = None) -> Bench:
        bench = Bench(
            tmp_path / "state", engine, settings or toy_settings(local_source("toy", tmp_path, toy_records()))
        )
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()
