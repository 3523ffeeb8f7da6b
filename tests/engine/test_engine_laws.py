"""The law of engines: whatever else goes on, an answer is the serial one of the version that was live at its asking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from adapter_service.adapters import VersionStore
from adapter_service.database import Database
from adapter_service.engine import generations
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Event, Generation, Piece
from adapter_service.engine.requests import AdapterFiles
from adapter_service.settings import ServingSettings
from tests.engine.asking import assert_as_alone, assert_nothing_is_held, result_of, submit
from tests.engine.conftest import WAIT_SECONDS
from tests.engine.shelf import live, not_live, shelved
from tests.engine.test_soak import ANSWER, PROMPTS, Known, trained, wanted_of
from tests.near_ties import Serial, assert_equal_up_to_near_ties
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

NAME = "codes"
UNDER_WAY = 8
SLOTS = 3


class Reader:
    """Takes nothing of what it is told until it is told to `read`, and then everything."""

    def __init__(self, generation: Generation) -> None:
        self.text = ""
        self._generation = generation
        self._lock = threading.Lock()
        self._unread = 0
        self._reads = False
        generation.listen(self._hear, acknowledges=True)

    def _hear(self, event: Event) -> None:
        self.text += event.text if isinstance(event, Piece) else ""
        with self._lock:
            reads = self._reads
            self._unread += not reads
        if reads:
            self._generation.took()

    def read(self) -> None:
        with self._lock:
            self._reads = True
            unread, self._unread = self._unread, 0
        for _ in range(unread):
            self._generation.took()


@dataclass(eq=False)
class Asked:
    generation: Generation
    wanted: Serial
    reader: Reader | None = None

    def check(self) -> None:
        """The answer, which has ended or is going to."""
        for choice in result_of(self.generation).choices:
            if choice.finish_reason != "cancelled":
                assert_as_alone(choice, self.wanted)
            elif choice.tokens is not None:
                assert_equal_up_to_near_ties(choice.tokens.ids, self.wanted)
            if self.reader is not None:
                assert self.reader.text == choice.text


@dataclass(frozen=True)
class Shelf:
    """What all runs of the machine share."""

    engine: Engine
    versions: VersionStore
    files: list[AdapterFiles]
    known: Known
    weights: list[bytes]


class Engines(RuleBasedStateMachine):
    shelf: Shelf

    def __init__(self) -> None:
        super().__init__()
        self.engine, self.versions = self.shelf.engine, self.shelf.versions
        self.asked: list[Asked] = []
        self.pinning: dict[str, Future[None]] = {}
        self.training: Future[list[bytes]] | None = None
        self.pool = ThreadPoolExecutor(SLOTS)

    @precondition(lambda self: len(self.asked) < UNDER_WAY)
    @rule(prompt=st.sampled_from(PROMPTS), of_base=st.booleans(), count=st.integers(1, 2))
    def ask(self, prompt: str, of_base: bool, count: int) -> None:
        self._ask(prompt, None if of_base else live(self.versions, NAME), count=count)

    @precondition(lambda self: len(self.asked) < UNDER_WAY)
    @rule(prompt=st.sampled_from(PROMPTS))
    def ask_streamed(self, prompt: str) -> None:
        asked = self._ask(prompt, live(self.versions, NAME))
        asked.reader = Reader(asked.generation)

    def _ask(self, prompt: str, files: AdapterFiles | None, *, count: int = 1) -> Asked:
        generation = submit(self.engine, prompt, files, ANSWER, count=count)
        asked = Asked(generation, self.shelf.known[prompt, files.key if files else None, 1.0])
        self.asked.append(asked)
        return asked

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.asked)).generation.cancel()

    @precondition(lambda self: any(one.reader for one in self.asked))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([one.reader for one in self.asked if one.reader])).read()

    @rule(data=st.data())
    def go_live(self, data: st.DataObject) -> None:
        version = data.draw(st.integers(0, len(self.shelf.files) - 2))
        self.versions.go_live(not_live(self.versions, NAME)[version])

    @precondition(lambda self: len(self.pinning) < SLOTS - 1)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        """It waits for a slot, which may take until somebody reads."""
        files = data.draw(st.sampled_from([one for one in self.shelf.files if one.key not in self.pinning]))
        self.pinning[files.key] = self.pool.submit(self.engine.pin, files)

    @precondition(lambda self: self.pinning)
    @rule()
    def unpin(self) -> None:
        key = next(iter(self.pinning))
        self._read_all()
        self.pinning.pop(key).result(WAIT_SECONDS)
        assert key in self.engine.resident_adapters()
        self.engine.unpin(key)

    @precondition(lambda self: self.training is None)
    @rule()
    def training_begins(self) -> None:
        self.training = self.pool.submit(self.engine.run, lambda turn: trained(turn.base, turn.pause))

    @precondition(lambda self: self.training is not None)
    @rule()
    def training_ends(self) -> None:
        assert self.training is not None
        assert self.training.result(WAIT_SECONDS) == self.shelf.weights
        self.training = None

    @rule()
    def everybody_is_answered(self) -> None:
        self._read_all()
        for one in self.asked:
            one.check()
        self.asked.clear()

    def _read_all(self) -> None:
        for one in self.asked:
            if one.reader is not None:
                one.reader.read()

    @invariant()
    def what_has_ended_is_the_serial_answer(self) -> None:
        # They stay: what a rule may choose from must not depend on how fast the engine is.
        for one in self.asked:
            if one.generation._ended():
                one.check()

    def teardown(self) -> None:
        self.everybody_is_answered()
        for key, pin in self.pinning.items():
            pin.result(WAIT_SECONDS)
            self.engine.unpin(key)
        if self.training is not None:
            self.training_ends()
        self.pool.shutdown()
        assert_nothing_is_held(self.engine, *self.shelf.files)
        assert self.engine._residency.pinned() == frozenset()


@pytest.fixture
def shelf(tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setattr(generations, "_UNREAD", 3)
    serving = ServingSettings(max_active_requests=4, max_adapters=SLOTS, prefix_cache_bytes=300_000)
    engine = Engine(lambda note: tiny_base, serving)
    engine.start()
    engine.wait_until_ready(READY_SECONDS)
    database = Database(tmp_path / "service.db")
    versions = VersionStore(database, tmp_path / "adapters")
    files = shelved(
        versions, engine, tmp_path, NAME, [{"r": 4}, {"r": 12}, {"r": 4, "target_modules": ("q_proj",)}, {}]
    )
    weights = engine.run(lambda turn: trained(turn.base, lambda: None))
    yield Shelf(engine, versions, files, wanted_of(engine, files), weights)
    engine.stop(WAIT_SECONDS)
    database.close()


def test_whatever_goes_on_every_answer_is_the_serial_one_of_the_version_that_was_live(shelf: Shelf) -> None:
    machine = type("Machine", (Engines,), {"shelf": shelf})
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=25, deadline=None))
