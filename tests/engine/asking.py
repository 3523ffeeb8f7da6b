"""Asking an engine: requests that can be compared, and what must be left when all of them have ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from adapter_service.adapters.lease import unused
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Choice, Generation, GenerationResult
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from tests.engine.conftest import WAIT_SECONDS, Work
from tests.near_ties import Serial, assert_equal_up_to_near_ties

EIGHT = Sampling(max_new_tokens=8)


def submit(
    engine: Engine,
    prompt: str,
    adapter: AdapterFiles | None = None,
    sampling: Sampling = EIGHT,
    *,
    scale: float = 1.0,
    count: int = 1,
) -> Generation:
    """With its tokens, so that near ties are seen."""
    sampling = replace(sampling, return_tokens=True, top_logprobs=2)
    return engine.submit(Ask(engine.renderer.text_ids(prompt), sampling, adapter, scale, count))


def result_of(generation: Generation) -> GenerationResult:
    return generation.result(WAIT_SECONDS)


def alone(
    engine: Engine, prompt: str, adapter: AdapterFiles | None = None, sampling: Sampling = EIGHT, scale: float = 1.0
) -> Serial:
    """The answer while nobody else is there."""
    choice = result_of(submit(engine, prompt, adapter, sampling, scale=scale)).only
    assert choice.tokens is not None
    tops = choice.tokens.top
    return Serial(choice.tokens.ids, [best - second for (_, best), (_, second) in tops])


def assert_as_alone(choice: Choice, serial: Serial) -> None:
    assert choice.tokens is not None
    if serial.sure() == len(serial.tokens):
        assert len(choice.tokens.ids) == len(serial.tokens)
    assert_equal_up_to_near_ties(choice.tokens.ids, serial)


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """What is submitted inside waits in the line, all of it, until the end."""
    work = Work(engine)
    try:
        yield
    finally:
        work.end()


def assert_nothing_is_held(engine: Engine, *files: AdapterFiles) -> None:
    """No place, no use of an adapter, no folder; `files` are those that were asked."""
    engine.run(lambda turn: None)  # the last turn has come to its end
    assert engine._serving is not None
    scheduler: Any = engine._serving.scheduler
    assert scheduler is not None
    assert (engine.waiting, engine.active) == (0, 0)
    assert (scheduler._requests, scheduler._grown_by, scheduler._batch.rows) == ([], {}, 0)
    if hasattr(scheduler._batch, "_cache"):
        assert scheduler._batch._cache.taken_tokens == 0
        assert not scheduler._batch._places
    else:
        assert not scheduler._batch._caches
    assert {key: engine._residency.users(key) for key in engine.resident_adapters()} == dict.fromkeys(
        engine.resident_adapters(), 0
    )
    for one in files:
        with unused(one.folder, wait=False) as free:
            assert free
