"""Memory that runs out, and passes that fail: the newest request goes, and the others do not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from adapter_service.engine.batch import MixedBatch
from adapter_service.engine.engine import Engine
from adapter_service.engine.prefix_cache import PrefixCache
from adapter_service.errors import OverloadedError
from adapter_service.settings import ServingSettings
from tests.engine.asking import alone, assert_as_alone, assert_nothing_is_held, held, result_of, submit
from tests.engine.conftest import WAIT_SECONDS, MakeFiles
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

LONG_PROMPT = "x" * 150  # of three chunks


@pytest.fixture(scope="module", params=["as_loaded", "modules", "single"])
def engine(request: pytest.FixtureRequest, tiny_base: BaseModel) -> Iterator[Engine]:
    """One for all tests in here, mixed by each kind of kernel, or one by one.

    What a fault leaves behind, the next would meet.
    """
    is_mixed = request.param != "single"
    base = replace(tiny_base, packs_rows=is_mixed)
    settings = {"max_active_requests": 4, "kernel": request.param if is_mixed else "auto"}
    engine = Engine(lambda note: base, ServingSettings.model_validate(settings))
    engine.start()
    engine.wait_until_ready(READY_SECONDS)
    yield engine
    engine.stop(WAIT_SECONDS)


@pytest.fixture
def fail_in_layer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], None]:
    """In the `place`-th pass from now on, once: compiled, or in the second layer, when the first has kept its keys."""
    layer, kernel = engine.base.model.model.layers[1], engine.kernel
    assert kernel is not None

    def fail(place: int, error: Exception) -> None:
        passes = 0

        def failing(real: Callable[..., Any]) -> Callable[..., Any]:
            def work(*args: Any, **kwargs: Any) -> Any:
                nonlocal passes
                passes += 1
                if passes == place + 1:
                    raise error
                return real(*args, **kwargs)

            return work

        monkeypatch.setattr(layer, "forward", failing(layer.forward))
        if kernel.decoder is not None:
            for way in ("step", "read"):
                monkeypatch.setattr(kernel.decoder, way, failing(getattr(kernel.decoder, way)))

    return fail


@pytest.mark.parametrize("place", range(8))
def test_whenever_memory_runs_out_the_newest_goes_and_the_others_are_as_alone(
    engine: Engine, fail_in_layer: Callable[[int, Exception], None], make_files: MakeFiles, place: int
) -> None:
    files = make_files(1)
    wanted = [alone(engine, "Once"), alone(engine, "Hello", files)]
    with held(engine):
        staying = [submit(engine, "Once"), submit(engine, "Hello", files)]
        newest = submit(engine, LONG_PROMPT)
        fail_in_layer(place, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OverloadedError, match="no memory is left for this request"):
        result_of(newest)
    for generation, serial in zip(staying, wanted, strict=True):
        assert_as_alone(result_of(generation).only, serial)
    assert_nothing_is_held(engine, files)


def test_a_lone_request_without_memory_is_refused_and_the_next_is_answered(
    engine: Engine, fail_in_layer: Callable[[int, Exception], None]
) -> None:
    wanted = alone(engine, "Once")
    fail_in_layer(0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OverloadedError):
        result_of(submit(engine, "Once"))
    assert_as_alone(result_of(submit(engine, "Once")).only, wanted)
    assert_nothing_is_held(engine)


def test_a_step_that_fails_otherwise_ends_those_who_were_in_it(
    engine: Engine, fail_in_layer: Callable[[int, Exception], None], caplog: pytest.LogCaptureFixture
) -> None:
    wanted = alone(engine, "Once")
    with held(engine):
        first = submit(engine, "Hello")
        second = submit(engine, "Once")
        fail_in_layer(1, RuntimeError("of our own making"))  # the first one's first step
    with pytest.raises(RuntimeError, match="of our own making"):
        result_of(first)
    assert_as_alone(result_of(second).only, wanted)
    assert_nothing_is_held(engine)
    assert "a step failed" in caplog.text


def test_no_memory_for_further_answers_leaves_none_of_them(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to one prompt branch off one after the other."""
    batch = type(engine._serving.scheduler._batch)  # type: ignore[union-attr]
    real, forks = batch.fork, 0

    def fork(self: Any, sequence: Any) -> Any:
        nonlocal forks
        forks += 1
        if forks == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, sequence)

    monkeypatch.setattr(batch, "fork", fork)
    with pytest.raises(OverloadedError):
        result_of(submit(engine, "Once", count=3))
    assert_nothing_is_held(engine)


def test_no_memory_for_a_place_is_the_newcomers_affair(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = alone(engine, "Once")

    def add(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with held(engine):
        first = submit(engine, "Once")
        second = submit(engine, "Hello")
        batch, real = engine._serving.scheduler._batch, engine._serving.scheduler._batch.add  # type: ignore[union-attr]
        monkeypatch.setattr(batch, "add", lambda sequence: real(sequence) if len(sequence.prompt) == 5 else add())
    with pytest.raises(OverloadedError):
        result_of(second)
    assert_as_alone(result_of(first).only, wanted)
    assert_nothing_is_held(engine)


def test_no_memory_to_keep_a_prefix_costs_the_prompt_nothing(
    tiny_base: BaseModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of whole chunks, so that the last of them gives the first token; it is read again."""
    if not isinstance(engine._serving.scheduler._batch, MixedBatch):  # type: ignore[union-attr]
        pytest.skip("it keeps no prefixes")
    prompt = "y" * (128 - len(engine.renderer.text_ids("")))
    assert len(engine.renderer.text_ids(prompt)) == 128
    wanted = alone(engine, prompt)
    engine._prefixes.forget()
    real, keeps = PrefixCache.keep, 0

    def keep(*args: Any) -> None:
        nonlocal keeps
        keeps += 1
        if keeps == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(*args)

    monkeypatch.setattr(PrefixCache, "keep", keep)
    with held(engine):
        first = submit(engine, prompt)
        newest = submit(engine, "Hello")
    assert_as_alone(result_of(first).only, wanted)
    with pytest.raises(OverloadedError):
        result_of(newest)
    assert_nothing_is_held(engine)
