"""Engines over the tiny base, adapters for it on disk, and work that can be watched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from adapter_service.adapters.artifact import check_files, write_manifest
from adapter_service.engine import kernels
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.turn import Turn
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.folder import write_folder
from adapter_service.lora.layer import LowRankLinear, install
from adapter_service.settings import ServingSettings
from tests.engine.tape import Tapes
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

MakeEngine = Callable[..., Engine]
MakeFiles = Callable[..., AdapterFiles]
WAIT_SECONDS = 30.0


@pytest.fixture
def make_engine(tiny_base: BaseModel) -> Iterator[MakeEngine]:
    """Started, ready, and stopped in the end."""
    made: list[Engine] = []

    def make(**options: Any) -> Engine:
        engine = Engine(lambda note: tiny_base, ServingSettings(**options))
        engine.start()
        engine.wait_until_ready(READY_SECONDS)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.stop(WAIT_SECONDS)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Tapes:
    """What steps are recorded on, as on a device that can."""
    tapes = Tapes()
    monkeypatch.setattr(kernels, "recordings_on", lambda device: tapes.new_recordings())
    return tapes


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()


@pytest.fixture
def make_files(tiny_base: BaseModel, tmp_path: Path) -> MakeFiles:
    """An adapter with random weights in a folder of its own."""
    layers = install(tiny_base.model, keep=tiny_base.model.get_output_embeddings())

    return partial(write_files, layers, tmp_path)


def write_files(
    layers: Mapping[str, LowRankLinear], below: Path, seed: int, *, std: float = 0.3, **lora: Any
) -> AdapterFiles:
    """An adapter of rank 4 for all linear layers, unless `lora` says otherwise."""
    adapter = Adapter.fresh(LoraConfig(**{"r": 4, **lora}), layers, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for pair in adapter.pairs.values():
        pair.b.data.normal_(std=std, generator=generator)
    folder = below / f"adapter-{seed}"
    folder.mkdir()
    write_folder(adapter, folder, base_name="tiny")
    write_manifest(folder, check_files(folder))
    return AdapterFiles(f"key-{seed}", folder, f"random@{seed}")


class Work:
    """Long work on the engine's thread that goes on when it is told to."""

    def __init__(self, engine: Engine) -> None:
        self._begun, self._go_on = threading.Event(), threading.Event()
        self._ended = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=[engine])
        self._thread.start()
        assert self._begun.wait(WAIT_SECONDS)

    def _run(self, engine: Engine) -> None:
        try:
            engine.run(self._work)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def _work(self, turn: Turn) -> None:
        self._begun.set()
        assert self._go_on.wait(WAIT_SECONDS)
        while not self._ended.is_set():
            turn.pause()

    def go_on(self) -> None:
        """Pause again and again, until `end`."""
        self._go_on.set()

    def end(self) -> None:
        self._ended.set()
        self._go_on.set()
        self.join()

    def join(self) -> None:
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def busy(engine: Engine) -> Iterator[Work]:
    """Work that holds `engine` until it is told to go on."""
    work = Work(engine)
    yield work
    work.end()
