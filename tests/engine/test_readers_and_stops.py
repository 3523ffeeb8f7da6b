"""Readers that are slow, clients that ask for much, and an engine that stops under all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from adapter_service.engine import generations, scheduler
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Event, Generation, Piece
from adapter_service.engine.requests import AdapterFiles, Sampling
from adapter_service.engine.resident_adapters import ResidentAdapters
from adapter_service.engine.turn import Turn
from adapter_service.errors import InvalidParameterError, NotReadyError, SlowReaderError
from tests.engine.asking import EIGHT, alone, assert_as_alone, assert_nothing_is_held, held, result_of, submit
from tests.engine.conftest import WAIT_SECONDS, MakeEngine, MakeFiles

LONG = Sampling(max_new_tokens=60, min_new_tokens=60)
NEVER_ENDING = Sampling(max_new_tokens=480, min_new_tokens=480)


class SlowReader:
    """Keeps what it is told, and never says that it has dealt with it."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.events: list[Event] = []
        self.has_two = threading.Event()
        generation.listen(self._hear, acknowledges=True)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) == 2:
            self.has_two.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two unread pieces are enough to wait for a reader."""
    monkeypatch.setattr(generations, "_UNREAD", 2)


@pytest.mark.usefixtures("impatient")
def test_a_slow_reader_waits_alone_and_misses_nothing(engine: Engine, make_files: MakeFiles) -> None:
    files = make_files(1)
    wanted = alone(engine, "Once", files, LONG)
    quick = alone(engine, "Hello")
    with held(engine):
        slow = SlowReader(submit(engine, "Once", files, LONG))
    assert slow.has_two.wait(WAIT_SECONDS)
    for _ in range(8):  # each takes some turns, in which the slow one would have grown
        assert_as_alone(result_of(submit(engine, "Hello")).only, quick)
    assert len(slow.events) <= 3
    assert engine.active == 1
    slow.generation.listen(lambda event: None)  # it has caught up, and keeps up from now on
    slow.generation._wake()
    result = result_of(slow.generation)
    assert_as_alone(result.only, wanted)
    assert_nothing_is_held(engine, files)


@pytest.mark.usefixtures("impatient")
def test_what_a_slow_reader_takes_goes_on_where_it_stopped(engine: Engine) -> None:
    generation = submit(engine, "Once", sampling=LONG)
    pieces: list[Piece] = []
    told = threading.Semaphore(0)

    def hear(event: Event) -> None:
        if isinstance(event, Piece):
            pieces.append(event)
        told.release()

    generation.listen(hear, acknowledges=True)
    while not generation._ended():
        assert told.acquire(timeout=WAIT_SECONDS)
        generation.took()
    result = result_of(generation)
    assert "".join(piece.text for piece in pieces) == result.only.text
    assert sum(len(piece.tokens) for piece in pieces) == len(result.only.tokens.ids)  # type: ignore[union-attr]


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_never_reads_is_given_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "SLOWEST_READER_SECONDS", 0.0)
    slow = SlowReader(submit(engine, "Once", sampling=NEVER_ENDING))
    assert slow.has_two.wait(WAIT_SECONDS)
    engine._wake()  # as anybody who asks for something does
    with pytest.raises(SlowReaderError, match="taken for 60 s, so it was given up; ask again, and read the stream"):
        result_of(slow.generation)
    assert engine.measures.registry.get_sample_value("vllm:request_success_total", {"finished_reason": "abort"}) == 1
    assert_nothing_is_held(engine)


# Several answers.


def test_several_answers_are_those_of_the_seeds_that_follow(engine: Engine, make_files: MakeFiles) -> None:
    """One prompt is read once for all of them."""
    files, sampling = make_files(1), Sampling(max_new_tokens=8, do_sample=True, temperature=0.3, seed=5)
    wanted = [
        result_of(submit(engine, "Once", files, replace(sampling, seed=5 + place))).only.text for place in range(3)
    ]
    assert len(set(wanted)) > 1
    result = result_of(submit(engine, "Once", files, sampling, count=3))
    assert [choice.text for choice in result.choices] == wanted
    assert result.prompt_tokens == len(engine.renderer.text_ids("Once"))
    assert_nothing_is_held(engine, files)


def test_several_greedy_answers_are_one(engine: Engine) -> None:
    wanted = alone(engine, "Once")
    for choice in result_of(submit(engine, "Once", count=3)).choices:
        assert_as_alone(choice, wanted)


def test_more_answers_than_may_grow_are_refused(make_engine: MakeEngine) -> None:
    engine = make_engine(max_active_requests=2)
    with pytest.raises(InvalidParameterError, match=r"'n' \(or 'best_of'\) is 3; this service lets 2 answers grow"):
        submit(engine, "Once", count=3)
    assert len(result_of(submit(engine, "Once", count=2)).choices) == 2


# The end.


def answers_under_way(engine: Engine, *files: AdapterFiles | None) -> list[Generation]:
    """Of which each has a token at least."""
    begun = [threading.Event() for _ in files]
    asked = [submit(engine, "Once", one, NEVER_ENDING) for one in files]
    for generation, event in zip(asked, begun, strict=True):
        generation.listen(lambda _, event=event: event.set())  # type: ignore[misc]
    assert all(event.wait(WAIT_SECONDS) for event in begun)
    return asked


def test_a_stop_ends_answers_of_several_adapters_where_they_are(engine: Engine, make_files: MakeFiles) -> None:
    """Rows are moved together as others leave, for the last time without a turn around it."""
    asked = answers_under_way(engine, make_files(1), make_files(2), None, make_files(3))
    engine.stop(WAIT_SECONDS)
    assert [result_of(generation).only.finish_reason for generation in asked] == ["cancelled"] * 4
    assert not engine._thread.is_alive()


def test_a_stop_that_drains_lets_answers_end(engine: Engine, make_files: MakeFiles) -> None:
    files = make_files(1)
    wanted = alone(engine, "Once", files, LONG)
    with held(engine):
        asked = [submit(engine, "Once", files, LONG) for _ in range(2)]
        stopper = threading.Thread(target=engine.stop, args=[WAIT_SECONDS], kwargs={"drain_seconds": WAIT_SECONDS})
        stopper.start()
        while engine.state != "stopped":
            pass
        with pytest.raises(NotReadyError, match="stopping"):
            submit(engine, "Once")
    for generation in asked:
        assert_as_alone(result_of(generation).only, wanted)
    stopper.join(WAIT_SECONDS)
    assert not engine._thread.is_alive()


@pytest.mark.usefixtures("impatient")
def test_a_drain_does_not_wait_for_a_reader_that_does_not_read(engine: Engine) -> None:
    slow = SlowReader(submit(engine, "Once", sampling=LONG))
    assert slow.has_two.wait(WAIT_SECONDS)
    engine.stop(WAIT_SECONDS, drain_seconds=0.05)
    assert not engine._thread.is_alive()
    assert result_of(slow.generation).only.finish_reason == "cancelled"


def test_whatever_is_asked_while_it_stops_is_answered_or_refused(
    make_engine: MakeEngine, make_files: MakeFiles
) -> None:
    """From several threads, with the stop in the middle: nobody waits for ever."""
    engine, files = make_engine(max_active_requests=2, max_adapters=3, queue_size=64), [make_files(1), make_files(2)]
    begun = threading.Barrier(5)

    def ask(place: int) -> int:
        begun.wait(WAIT_SECONDS)
        asked = 0
        with suppress(NotReadyError):
            for _ in range(1000):
                asks: list[Callable[[], Any]] = [
                    lambda: submit(engine, "Hello", files[place % 2], EIGHT).result(WAIT_SECONDS),
                    lambda: engine.run(lambda turn: turn.pause()),
                    lambda: engine.pin(files[0]),
                    lambda: engine.unpin(files[0].key),
                ]
                asks[(place + asked) % 4]()
                asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, place) for place in range(4)]
        begun.wait(WAIT_SECONDS)
        result_of(submit(engine, "Once"))
        engine.stop(WAIT_SECONDS)
        assert sum(one.result(WAIT_SECONDS) for one in asking) > 0
    assert not engine._thread.is_alive()


def test_a_pin_that_waits_for_a_slow_disk_is_told_of_the_stop(
    engine: Engine, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, is_read, files = threading.Event(), threading.Event(), make_files(1)

    def read(folder: object) -> None:
        is_read.set()
        assert may_go_on.wait(WAIT_SECONDS)

    monkeypatch.setattr("adapter_service.engine.serving.verify_folder", read)
    with ThreadPoolExecutor(1) as pool:
        pinning = pool.submit(engine.pin, files)
        assert is_read.wait(WAIT_SECONDS)
        engine.stop(WAIT_SECONDS)
        with pytest.raises(NotReadyError, match="stopping"):
            pinning.result(WAIT_SECONDS)
        may_go_on.set()


def test_a_fault_in_the_scheduler_itself_ends_answers_and_not_the_engine(
    engine: Engine, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = alone(engine, "Once")
    real, faults = ResidentAdapters.take_in, [ZeroDivisionError("of our own making")]

    def take_in(self: ResidentAdapters) -> None:
        if faults and engine.active:
            raise faults.pop()
        real(self)

    asked = answers_under_way(engine, make_files(1), make_files(2))
    monkeypatch.setattr(ResidentAdapters, "take_in", take_in)
    for generation in asked:
        with pytest.raises(ZeroDivisionError):
            result_of(generation)
    assert_as_alone(result_of(submit(engine, "Once")).only, wanted)
    assert_nothing_is_held(engine)
    assert "the scheduler failed" in caplog.text


def test_an_order_that_fails_fails_alone(
    engine: Engine, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make_files(1), make_files(2)
    asked = answers_under_way(engine, one, two)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("of our own making")

    with monkeypatch.context() as patched:
        patched.setattr(ResidentAdapters, "unpin", fail)
        with pytest.raises(ZeroDivisionError):
            engine.unpin(one.key)
    with monkeypatch.context() as patched:
        patched.setattr(ResidentAdapters, "_want", fail)  # halfway: whoever ordered it is to be told later
        with pytest.raises(ZeroDivisionError):
            engine.pin(make_files(3))
    engine.pin(one)
    assert engine.state == "ready"
    assert engine._thread.is_alive()
    for generation in asked:
        generation.cancel()
        assert result_of(generation).completion_tokens
    assert "an order failed" in caplog.text
    engine.stop(WAIT_SECONDS)
    assert not engine._thread.is_alive()


def test_after_serving_everything_shared_can_be_trained(engine: Engine, make_files: MakeFiles) -> None:
    """Decoding is in inference mode, and what is made there takes part in no backward pass, ever."""
    import torch

    from tests.training.small_run import fresh_adapter, run, some_samples

    result_of(submit(engine, "x" * 100, make_files(1), count=2))

    def work(turn: Turn) -> float:
        adapter = fresh_adapter(turn.base, b=0.1)
        ran = run(turn.base, some_samples(4), adapter=adapter)
        assert not any(parameter.requires_grad for parameter in turn.base.model.parameters())
        assert not any(tensor.is_inference() for tensor in turn.base.model.state_dict().values())
        return float(sum(gradient.abs().sum() for gradient in ran.gradients))

    assert engine.run(work) > 0
    assert engine._serving is not None
    batch: Any = engine._serving.scheduler._batch
    kept = [tensor for buffer in batch._cache._buffers.values() for layer in buffer.layers for tensor in layer]
    kept += [matrix for one in engine._residency._resident.values() for matrix in one.value.matrices()]
    assert kept
    assert not any(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in kept)
