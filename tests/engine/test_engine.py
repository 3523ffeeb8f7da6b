"""The engine's turns: answers first, long work in between, and one fault never more than one answer."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from adapter_service.base_models.pauses import pausing
from adapter_service.engine import engine as engine_module
from adapter_service.engine.answering import answer_all
from adapter_service.engine.batch import MixedBatch
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Event, Generation, GenerationResult, Piece
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.engine.turn import Turn
from adapter_service.errors import (
    AdapterFormatError,
    BaseModelError,
    BusyError,
    InvalidParameterError,
    JobCancelledError,
    NotReadyError,
    PromptTooLongError,
    UnknownAdapterError,
)
from adapter_service.samples import Message
from tests.engine.conftest import WAIT_SECONDS, MakeEngine, MakeFiles, Work
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

SHORT = Sampling(max_new_tokens=6, min_new_tokens=6)
LONG = Sampling(max_new_tokens=400, min_new_tokens=400)


def submit(
    engine: Engine, text: str = "Hello", sampling: Sampling = SHORT, adapter: AdapterFiles | None = None
) -> Generation:
    prompt_ids = engine.prompt_ids([Message("user", text)], as_it_stands=adapter is None)
    return engine.submit(Ask(prompt_ids, sampling, adapter))


def answer(
    engine: Engine, text: str = "Hello", sampling: Sampling = SHORT, adapter: AdapterFiles | None = None
) -> GenerationResult:
    return submit(engine, text, sampling, adapter).result(WAIT_SECONDS)


def events_of(generation: Generation) -> list[Event]:
    """All that was handed out, once it has ended."""
    generation.result(WAIT_SECONDS)
    events: list[Event] = []
    generation.listen(events.append)
    return events


# Answers.


def test_an_answer_says_how_it_came_about(engine: Engine) -> None:
    result = answer(engine)
    assert (result.only.finish_reason, result.prompt_tokens, result.completion_tokens) == ("length", 6, 6)
    assert result.only.text
    assert result.seconds > 0


def test_the_pieces_make_up_the_text(engine: Engine) -> None:
    *pieces, result = events_of(submit(engine, sampling=Sampling(max_new_tokens=40, min_new_tokens=40)))
    assert isinstance(result, GenerationResult)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == result.only.text
    assert len(pieces) > 1


def test_a_stop_text_ends_the_answer_and_is_not_in_it(engine: Engine) -> None:
    whole = answer(engine, sampling=Sampling(max_new_tokens=40, min_new_tokens=40)).only.text
    stop = whole[8:11]
    result = answer(engine, sampling=Sampling(max_new_tokens=40, min_new_tokens=40, stop=(stop,)))
    assert (result.only.text, result.only.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_what_only_began_a_stop_text_is_given_at_the_end(engine: Engine) -> None:
    whole = answer(engine).only.text
    sampling = Sampling(max_new_tokens=6, min_new_tokens=6, stop=(whole[-1] + "never",))
    assert answer(engine, sampling=sampling).only.text == whole


def test_sampling_is_repeated_by_its_seed_whatever_others_ask(engine: Engine) -> None:
    sampling = Sampling(max_new_tokens=12, do_sample=True, seed=11)
    first = answer(engine, sampling=sampling).only.text
    answer(engine, "other", Sampling(max_new_tokens=5, do_sample=True, seed=12))
    assert answer(engine, sampling=sampling).only.text == first


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_prompt_is_refused(engine: Engine, text: str) -> None:
    with pytest.raises(InvalidParameterError, match="prompt is empty"):
        submit(engine, text)


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(engine: Engine) -> None:
    assert answer(engine, "x" * 505).completion_tokens == 6
    with pytest.raises(PromptTooLongError, match=r"507 tokens and 6 are to follow; .* takes 512 in all"):
        submit(engine, "x" * 506)


# The queue.


def test_answers_come_in_the_order_of_asking(engine: Engine, busy: Work) -> None:
    ended: list[int] = []

    def note_end(place: int) -> Callable[[Event], None]:
        return lambda event: None if isinstance(event, Piece) else ended.append(place)

    generations = [submit(engine) for _ in range(4)]
    for place in (2, 0, 3, 1):
        generations[place].listen(note_end(place))
    busy.go_on()
    generations[-1].result(WAIT_SECONDS)
    assert ended == [0, 1, 2, 3]


def test_a_full_queue_refuses_and_says_when_to_try_again(make_engine: MakeEngine) -> None:
    engine = make_engine(queue_size=2)
    work = Work(engine)
    waiting = [submit(engine), submit(engine)]
    with pytest.raises(BusyError, match="2 requests are waiting") as error:
        submit(engine)
    assert error.value.retry_after_seconds > 0
    work.end()
    assert [generation.result(WAIT_SECONDS).completion_tokens for generation in waiting] == [6, 6]
    assert answer(engine).completion_tokens == 6


def test_a_request_cancelled_while_it_waits_gives_its_place_back(make_engine: MakeEngine) -> None:
    engine = make_engine(queue_size=1)
    work = Work(engine)
    waiting = submit(engine)
    waiting.cancel()
    next_one = submit(engine)
    assert engine.waiting == 1
    work.end()
    assert waiting.result(WAIT_SECONDS).only.finish_reason == "cancelled"
    assert next_one.result(WAIT_SECONDS).completion_tokens == 6


def test_a_cancelled_answer_stops_within_one_token(engine: Engine, busy: Work) -> None:
    generation = submit(engine, sampling=LONG)
    generation.listen(lambda event: generation.cancel())
    busy.go_on()
    *pieces, result = events_of(generation)
    assert isinstance(result, GenerationResult)
    assert result.only.finish_reason == "cancelled"
    assert len(pieces) <= 2  # the one at which it was cancelled, and what was held back then
    assert result.completion_tokens < 10


def test_an_answer_that_is_whole_when_its_client_leaves_is_not_called_cancelled(engine: Engine, busy: Work) -> None:
    generation = submit(engine, sampling=Sampling(max_new_tokens=1))
    generation.listen(lambda event: generation.cancel())
    busy.go_on()
    assert generation.result(WAIT_SECONDS).only.finish_reason == "length"


def test_a_listener_that_fails_ends_its_own_answer_only(
    engine: Engine, busy: Work, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("the event loop is closed")

    generation = submit(engine, sampling=LONG)
    generation.listen(fail)
    busy.go_on()
    assert generation.result(WAIT_SECONDS).only.finish_reason == "cancelled"
    assert answer(engine).completion_tokens == 6
    assert "the event loop is closed" in caplog.text


# Adapters.


def test_the_adapter_is_the_requests_own(engine: Engine, make_files: MakeFiles) -> None:
    one, two = make_files(1), make_files(2)
    before = [answer(engine, adapter=adapter).only.text for adapter in (None, one, two)]
    again = [answer(engine, adapter=adapter).only.text for adapter in (two, None, one)]
    assert len(set(before)) == 3
    assert again == [before[2], before[0], before[1]]


def test_an_adapter_that_had_to_go_comes_back_the_same(make_engine: MakeEngine, make_files: MakeFiles) -> None:
    engine, files = make_engine(max_adapters=1), make_files(1)
    first = answer(engine, adapter=files).only.text
    answer(engine, adapter=make_files(2))
    assert engine.resident_adapters() == ["key-2"]
    assert answer(engine, adapter=files).only.text == first


def test_a_missing_adapter_ends_that_request_alone(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UnknownAdapterError, match="removed a moment ago; ask for another"):
        answer(engine, adapter=AdapterFiles("gone", tmp_path / "gone", "gone@1"))
    assert answer(engine).completion_tokens == 6


def test_an_adapter_that_the_disk_has_damaged_is_never_served(engine: Engine, make_files: MakeFiles) -> None:
    files = make_files(1)
    weights = files.folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AdapterFormatError, match=r"damaged: adapter_model\.safetensors"):
        answer(engine, adapter=files)
    assert answer(engine).completion_tokens == 6


def test_an_adapter_loaded_while_a_batch_is_decoded_can_be_trained_further(
    engine: Engine, make_files: MakeFiles, tiny_base: BaseModel
) -> None:
    """Decoding runs in inference mode, and what is made there is marked for ever."""
    files = make_files(1)
    waiting: list[Generation] = []

    def work(turn: Turn) -> bool:
        waiting.append(submit(engine, adapter=files))
        prompts = [turn.renderer.text_ids("a"), turn.renderer.text_ids("longer")]
        with pausing(turn.pause):
            answer_all(turn.base, turn.new_batch(2), prompts, [SHORT] * 2)
        adapter = turn.read_adapter(files).trainable_copy()
        parameters = list(adapter.parameters())
        torch.autograd.backward([parameter.square().sum() for parameter in parameters])
        return all(parameter.grad is not None for parameter in parameters)

    assert engine.run(work)
    assert waiting[0].result(WAIT_SECONDS).completion_tokens == 6


# Work.


def test_work_runs_on_the_engines_thread_and_gives_its_result(engine: Engine) -> None:
    assert engine.run(lambda turn: (threading.current_thread().name, turn.base.name)) == ("engine", engine.base.name)


def test_work_begins_while_answers_are_under_way(engine: Engine) -> None:
    under_way = submit(engine, sampling=LONG)
    engine.run(lambda turn: turn.pause())
    with pytest.raises(TimeoutError):
        under_way.result(0)
    under_way.cancel()


def test_an_answer_grows_while_one_piece_of_work_follows_the_other(engine: Engine, busy: Work) -> None:
    """None of which pauses: between two of them the answers have their turn."""
    generation = submit(engine)
    is_over: list[bool] = []
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(engine.run, lambda turn: is_over.append(generation._ended())) for _ in range(20)]
        while len(engine._work) < len(asked):
            time.sleep(0.001)
        busy.end()
    assert not is_over[0]
    assert is_over[-1]


def test_a_request_is_answered_while_work_runs(engine: Engine, busy: Work) -> None:
    busy.go_on()
    assert answer(engine).completion_tokens == 6
    assert engine.working


def test_between_slices_of_work_and_turns_no_time_is_lost(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on with every look at it: time that is nobody's would be missing from training's share."""
    # From a while ago on: the first look then owes training its turns, and slices come between the answer's tokens.
    share, clock = engine._share, map(float, count(int(time.monotonic()) - 100))

    def work(turn: Turn) -> tuple[float, float]:
        monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        turn.pause()
        began, charged = engine._since, share.served_seconds + share.trained_seconds
        events = list[Event]()
        submit(engine).listen(events.append)
        while not any(isinstance(event, GenerationResult) for event in events):
            turn.pause()
        passed = engine._since - began
        return share.served_seconds + share.trained_seconds - charged, passed

    charged, passed = engine.run(work)
    assert charged == pytest.approx(passed)
    assert share.served_seconds > SHORT.max_new_tokens


def test_work_that_is_paused_for_an_answer_goes_on_unchanged(engine: Engine, make_files: MakeFiles) -> None:
    """A batch under way and an answer with an adapter in between: neither sees the other."""
    files, ids = make_files(1), engine.renderer.text_ids("Hello")
    alone = engine.run(lambda turn: answer_all(turn.base, turn.new_batch(1), [ids], [SHORT])[0].tokens)
    between: list[Generation] = []

    def work(turn: Turn) -> list[int]:
        def pause() -> None:
            if len(between) < 5:
                between.append(submit(engine, adapter=files))
            turn.pause()

        with pausing(pause):
            return answer_all(turn.base, turn.new_batch(1), [ids], [SHORT])[0].tokens

    assert engine.run(work) == alone
    assert len({generation.result(WAIT_SECONDS).only.text for generation in between}) == 1


@pytest.fixture
def without_gc() -> Iterator[None]:
    """Nothing is freed but what nobody refers to any more."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_gc")
def test_work_that_ends_with_an_error_leaves_none_of_what_it_had_in_hand(engine: Engine) -> None:
    had: list[weakref.ref[torch.Tensor]] = []

    def work(turn: Turn) -> None:
        moments = torch.zeros(8)
        had.append(weakref.ref(moments))
        raise JobCancelledError("paused")

    with pytest.raises(JobCancelledError):
        engine.run(work)
    answer(engine)  # the engine's thread is done with the work
    assert [tensor() for tensor in had] == [None]


@pytest.mark.usefixtures("without_gc")
def test_an_answer_that_fails_leaves_none_of_what_it_had_in_hand(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    had: list[weakref.ref[torch.Tensor]] = []

    def fail(*_: object) -> None:
        cache = torch.zeros(8)
        had.append(weakref.ref(cache))
        raise BaseModelError("one of ours, which is not logged: a log that is captured keeps tracebacks")

    monkeypatch.setattr(MixedBatch, "read", fail)
    generation = submit(engine)
    with pytest.raises(BaseModelError):
        generation.result(WAIT_SECONDS)
    monkeypatch.undo()
    answer(engine)
    assert [tensor() for tensor in had] == [None]


def test_a_fault_in_work_is_raised_where_it_was_asked_for(engine: Engine) -> None:
    def work(turn: Turn) -> None:
        raise ZeroDivisionError("in the work")

    with pytest.raises(ZeroDivisionError, match="in the work"):
        engine.run(work)
    assert answer(engine).completion_tokens == 6


# Beginning and end.


def failing(error: Exception) -> Engine:
    def load(note: Callable[[str], None]) -> BaseModel:
        raise error

    engine = Engine(load)
    engine.start()
    return engine


def test_a_base_that_cannot_be_loaded_is_told_to_everyone(caplog: pytest.LogCaptureFixture) -> None:
    engine = failing(BaseModelError("no such base"))
    with pytest.raises(NotReadyError, match="could not be loaded: no such base"):
        engine.wait_until_ready(READY_SECONDS)
    assert engine.state == "failed"
    with pytest.raises(NotReadyError, match="no such base"):
        submit(engine)
    with pytest.raises(NotReadyError, match="no such base"):
        engine.run(lambda turn: None)


def test_the_note_of_a_failed_engine_is_the_reason_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    engine = failing(BaseModelError("no such base"))
    engine._thread.join(WAIT_SECONDS)
    engine.stop()
    assert (engine.state, engine.note) == ("failed", "no such base")


@pytest.mark.parametrize("fails", [False, True])
def test_whoever_waits_for_the_base_is_told_once_how_loading_ended(
    tiny_base: BaseModel, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    told: list[str] = []

    def load(note: Callable[[str], None]) -> BaseModel:
        if fails:
            raise BaseModelError("no such base")
        return tiny_base

    engine = Engine(load)
    engine.when_settled(lambda: told.append(engine.state))
    engine.start()
    engine.run(lambda turn: None) if not fails else engine._thread.join(WAIT_SECONDS)
    engine.stop(WAIT_SECONDS)
    assert told == ["failed" if fails else "ready"]


def test_a_load_is_not_waited_for_at_the_stop(tiny_base: BaseModel) -> None:
    may_go_on = threading.Event()

    def load(note: Callable[[str], None]) -> BaseModel:
        assert may_go_on.wait(WAIT_SECONDS)
        note("reading the weights")
        return tiny_base

    engine = Engine(load)
    engine.start()
    engine.stop(timeout_seconds=WAIT_SECONDS)
    may_go_on.set()
    engine._thread.join(WAIT_SECONDS)
    assert (engine.state, engine.note) == ("stopped", "stopped")


def test_a_fault_of_ours_while_loading_tells_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    engine = failing(RuntimeError("/home/someone/secret"))
    with pytest.raises(NotReadyError, match=r"internal error while loading \(RuntimeError\); see the log") as error:
        engine.wait_until_ready(READY_SECONDS)
    assert "secret" not in str(error.value)
    assert "secret" in caplog.text


def test_what_is_loading_is_told_meanwhile(tiny_base: BaseModel) -> None:
    told, may_go_on = threading.Event(), threading.Event()

    def load(note: Callable[[str], None]) -> BaseModel:
        note("reading the weights")
        told.set()
        assert may_go_on.wait(WAIT_SECONDS)
        return tiny_base

    engine = Engine(load)
    engine.start()
    assert told.wait(WAIT_SECONDS)
    with pytest.raises(NotReadyError, match=r"not ready yet \(reading the weights\)"):
        submit(engine)
    states = [engine.state]
    may_go_on.set()
    engine.wait_until_ready(READY_SECONDS)
    assert [*states, engine.state] == ["loading", "ready"]
    engine.stop(WAIT_SECONDS)


def test_stopping_refuses_what_waits_and_ends_work_at_its_pause(engine: Engine, busy: Work) -> None:
    waiting = submit(engine)
    stopper = threading.Thread(target=engine.stop)
    begin_and_wait(stopper, engine)
    busy.go_on()
    stopper.join(WAIT_SECONDS)
    with pytest.raises(NotReadyError, match="stopping"):
        waiting.result(WAIT_SECONDS)
    busy.join()
    assert isinstance(busy.error, NotReadyError)


def test_an_engine_that_has_stopped_takes_nothing(engine: Engine) -> None:
    engine.stop(WAIT_SECONDS)
    with pytest.raises(NotReadyError, match="stopping"):
        submit(engine)
    with pytest.raises(NotReadyError, match="stopping"):
        engine.run(lambda turn: None)


def begin_and_wait(stopper: threading.Thread, engine: Engine) -> None:
    if stopper.ident is None:
        stopper.start()
    while engine.state != "stopped":
        pass


def test_an_answer_under_way_at_the_stop_does_not_pass_for_whole(engine: Engine, busy: Work) -> None:
    generation = submit(engine, sampling=LONG)
    stopper = threading.Thread(target=engine.stop)
    generation.listen(lambda event: begin_and_wait(stopper, engine))
    busy.go_on()
    assert generation.result(WAIT_SECONDS).only.finish_reason == "cancelled"
    stopper.join(WAIT_SECONDS)


def test_an_engine_that_was_never_started_can_be_stopped(tiny_base: BaseModel) -> None:
    engine = Engine(lambda note: tiny_base)
    engine.stop()
    assert engine.state == "stopped"
