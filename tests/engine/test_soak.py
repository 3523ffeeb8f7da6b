"""All at once: threads that ask for adapters whose answers are known, while one base trains, loads and unloads.

ADAPTER_SOAK_ROUNDS makes it as long as one likes; each thread asks so often.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.adapters.lease import unused
from adapter_service.engine import generations
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Event, Generation, GenerationResult, Piece
from adapter_service.engine.requests import AdapterFiles, Sampling
from adapter_service.engine.turn import Turn
from adapter_service.errors import BusyError, JobCancelledError, TooManyPinsError, UnknownAdapterError
from adapter_service.settings import ServingSettings
from adapter_service.training.loop import Hooks
from tests.engine.asking import alone, assert_as_alone, assert_nothing_is_held, result_of, submit
from tests.engine.conftest import WAIT_SECONDS, MakeFiles
from tests.near_ties import Serial, assert_equal_up_to_near_ties
from tests.training.small_run import fresh_adapter, run, some_samples, weights_of
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

ROUNDS = int(os.environ.get("ADAPTER_SOAK_ROUNDS", "8"))
THREADS = 6
PROMPTS = ("Once", "Hello there", "x" * 150)
ANSWER = Sampling(max_new_tokens=12)
Known = dict[tuple[str, str | None, float], Serial]


@dataclass
class Traffic:
    """What one thread asks, chosen by its own numbers."""

    engine: Engine
    files: list[AdapterFiles]
    known: Known
    chooser: random.Random

    def go(self) -> None:
        for _ in range(ROUNDS):
            self.chooser.choice(self.ways())()

    def ways(self) -> list[Callable[[], None]]:
        return [self.whole, self.streamed, self.streamed, self.left, self.several, self.pin]

    def adapter(self) -> AdapterFiles | None:
        return self.chooser.choice([None, *self.files])

    def ask(self, sampling: Sampling = ANSWER, *, count: int = 1) -> tuple[Generation, Serial]:
        prompt = self.chooser.choice(PROMPTS)
        files = self.adapter()
        scale = self.chooser.choice([1.0, 1.0, 0.5]) if files else 1.0
        while True:
            try:
                generation = submit(self.engine, prompt, files, sampling, scale=scale, count=count)
            except BusyError:  # as it says, a moment later
                self.engine.run(lambda turn: turn.pause())
            else:
                return generation, self.known[prompt, files.key if files else None, scale]

    def whole(self) -> None:
        generation, wanted = self.ask()
        assert_as_alone(result_of(generation).only, wanted)

    def several(self) -> None:
        generation, wanted = self.ask(count=2)
        for choice in result_of(generation).choices:
            assert_as_alone(choice, wanted)

    def streamed(self) -> None:
        """By a reader that sometimes is behind."""
        generation, wanted = self.ask()
        pieces: list[Piece] = []
        told = threading.Semaphore(0)

        def hear(event: Event) -> None:
            if isinstance(event, Piece):
                pieces.append(event)
            told.release()

        generation.listen(hear, acknowledges=True)
        while not generation._ended():
            assert told.acquire(timeout=WAIT_SECONDS)
            if self.chooser.random() < 0.3:
                self.engine.run(lambda turn: None)  # something else to do
            generation.took()
        result = result_of(generation)
        assert_as_alone(result.only, wanted)
        assert "".join(piece.text for piece in pieces) == result.only.text

    def left(self) -> None:
        """By a client that goes away at some token, or before the first."""
        generation, wanted = self.ask(replace(ANSWER, max_new_tokens=200))
        after = self.chooser.randrange(4)
        heard = 0

        def hear(event: Event) -> None:
            nonlocal heard
            heard += 1
            if heard == after:
                generation.cancel()

        generation.listen(hear)
        if after == 0:
            generation.cancel()
        choice = result_of(generation).only
        if choice.tokens is not None:
            assert_equal_up_to_near_ties(choice.tokens.ids[: len(wanted.tokens)], wanted)

    def pin(self) -> None:
        key = self.chooser.choice(self.files)
        try:
            self.engine.pin(key)
            assert key.key in self.engine.resident_adapters()
        except TooManyPinsError:
            pass
        self.engine.unpin(key.key)


class Training:
    """Runs on the engine's base for as long as there is traffic, and is the same each time."""

    def __init__(self, engine: Engine, wanted: list[bytes]) -> None:
        self.engine, self.wanted = engine, wanted
        self.runs = 0
        self._is_over = threading.Event()
        self._chooser = random.Random(0)

    def go(self) -> None:
        while not self._is_over.is_set():
            self.engine.run(self._train)
            self.runs += 1

    def _train(self, turn: Turn) -> None:
        """Pauses at random layers."""

        def pause() -> None:
            if self._chooser.random() < 0.5:
                turn.pause()

        assert trained(turn.base, pause) == self.wanted

    def end(self) -> None:
        self._is_over.set()


def trained(base: BaseModel, pause: Callable[[], None]) -> list[bytes]:
    adapter = fresh_adapter(base, b=0.1)
    run(base, some_samples(8), adapter=adapter, hooks=Hooks(pause=pause))
    return weights_of(adapter)


def wanted_of(engine: Engine, files: list[AdapterFiles]) -> Known:
    known: Known = {(prompt, None, 1.0): alone(engine, prompt, sampling=ANSWER) for prompt in PROMPTS}
    for prompt in PROMPTS:
        for one in files:
            for scale in (1.0, 0.5):
                known[prompt, one.key, scale] = alone(engine, prompt, one, ANSWER, scale=scale)
    return known


@pytest.mark.timeout(600)
def test_everything_at_once_answers_as_alone_and_leaves_nothing(
    tiny_base: BaseModel, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "_UNREAD", 3)
    kinds: list[dict[str, Any]] = [{"r": 4}, {"r": 12}, {"r": 4, "target_modules": ("q_proj",)}, {"r": 20}, {"r": 8}]
    files = [make_files(seed, **kind) for seed, kind in enumerate(kinds)]
    settings = ServingSettings(max_active_requests=4, max_adapters=3, queue_size=8, prefix_cache_bytes=300_000)
    engine = Engine(lambda note: tiny_base, settings)
    engine.start()
    engine.wait_until_ready(READY_SECONDS)
    known = wanted_of(engine, files)
    training = Training(engine, engine.run(lambda turn: trained(turn.base, lambda: None)))
    traffic = [Traffic(engine, files, known, random.Random(seed)) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS + 1) as pool:
        in_training = pool.submit(training.go)
        try:
            for one in [pool.submit(one.go) for one in traffic]:
                one.result(WAIT_SECONDS * max(1, ROUNDS))
        finally:
            training.end()
        in_training.result(WAIT_SECONDS)
    assert training.runs
    assert engine._residency.evictions > len(files)
    assert_nothing_is_held(engine, *files)
    assert engine._residency.pinned() == frozenset()
    assert_as_alone(result_of(submit(engine, "Once", sampling=ANSWER)).only, known["Once", None, 1.0])
    engine.stop(WAIT_SECONDS)


def test_a_version_that_is_removed_while_it_is_asked_is_answered_or_unknown(
    engine: Engine, make_files: MakeFiles
) -> None:
    """Whoever got in before the removal is answered; the folder goes when the last of them has been."""
    files = make_files(1)
    wanted = alone(engine, "Once", files)
    is_going, is_unlisted = threading.Event(), threading.Event()

    def ask() -> int:
        answered = 0
        with suppress(UnknownAdapterError):
            while not is_unlisted.is_set():
                assert_as_alone(result_of(submit(engine, "Once", files)).only, wanted)
                answered += 1
                if answered == 3:
                    is_going.set()
        return answered

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            assert is_going.wait(WAIT_SECONDS)
        finally:
            is_unlisted.set()  # as a version is removed: nobody new finds it, then its folder goes
        with unused(files.folder, wait=True) as free:
            assert free
            shutil.rmtree(files.folder)
        assert sum(one.result(WAIT_SECONDS) for one in asking) >= 3
    with pytest.raises(UnknownAdapterError):
        submit(engine, "Once", files)
    engine.run(lambda turn: None)
    assert engine.active == 0
    assert isinstance(result_of(submit(engine, "Once")), GenerationResult)
    assert engine._residency.users(files.key) == 0


def test_work_that_is_cancelled_amid_a_pass_leaves_answers_as_they_are(engine: Engine, make_files: MakeFiles) -> None:
    files = make_files(1)
    wanted = alone(engine, "Once", files)
    asked: list[Generation] = []

    def work(turn: Turn) -> None:
        def pause() -> None:
            asked.append(submit(engine, "Once", files))
            turn.pause()
            if len(asked) == 20:
                raise JobCancelledError("as it was asked")

        trained(turn.base, pause)

    with pytest.raises(JobCancelledError):
        engine.run(work)
    for generation in asked:
        assert_as_alone(result_of(generation).only, wanted)
    assert_nothing_is_held(engine, files)
