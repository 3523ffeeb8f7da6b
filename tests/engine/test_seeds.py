"""The law of seeds: where the probe promises it, a seed gives one text, alone and in every company."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles, Sampling
from adapter_service.model_utils import load_base
from adapter_service.settings import ServingSettings
from tests.engine.asking import held, result_of, submit
from tests.engine.conftest import WAIT_SECONDS, write_files
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

PROMPTS = ("Once", "Hello there", "x" * 100)


def in_8_bits(folder: Path) -> BaseModel:
    return load_base(str(folder), bases_dir=folder, device="cpu", dtype="bfloat16", use_8bit=True)


def one_by_one(folder: Path) -> BaseModel:
    base = load_base(str(folder), bases_dir=folder, device="cpu", dtype="float32")
    return replace(base, packs_rows=False)


@pytest.fixture(scope="module", params=[in_8_bits, one_by_one], ids=lambda make: make.__name__)
def engine(request: pytest.FixtureRequest, tiny_base_folder: Path) -> Iterator[Engine]:
    base = request.param(tiny_base_folder)
    engine = Engine(lambda note: base, ServingSettings(max_active_requests=6))
    engine.start()
    engine.wait_until_ready(READY_SECONDS)
    yield engine
    engine.stop(WAIT_SECONDS)


@pytest.fixture(scope="module")
def files(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterFiles | None]:
    below = tmp_path_factory.mktemp("adapters")
    return [None, *(write_files(engine.layers, below, seed) for seed in (1, 2))]


@given(asks=st.lists(st.tuples(st.sampled_from(PROMPTS), st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=6))
@settings(max_examples=10, deadline=None)
def test_a_seed_gives_one_text_in_every_company(
    engine: Engine, files: list[AdapterFiles | None], asks: list[tuple[str, int, int]]
) -> None:
    if not engine.is_batch_invariant:
        pytest.skip("the probe does not promise it of this processor")

    def sampling(seed: int) -> Sampling:
        return Sampling(max_new_tokens=10, do_sample=True, temperature=0.9, seed=seed)

    alone = [result_of(submit(engine, prompt, files[one], sampling(seed))).only for prompt, one, seed in asks]
    with held(engine):
        generations = [submit(engine, prompt, files[one], sampling(seed)) for prompt, one, seed in asks]
    together = [result_of(generation).only for generation in generations]
    assert [(choice.text, choice.tokens) for choice in together] == [(choice.text, choice.tokens) for choice in alone]
