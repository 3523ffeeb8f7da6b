"""What the base makes of texts: whatever they are beside, and whatever else it does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch

from adapter_service.engine.embedding import embeddings
from adapter_service.engine.engine import Engine
from adapter_service.engine.turn import Turn
from adapter_service.lora.layer import using
from tests.engine.conftest import WAIT_SECONDS
from tests.training.small_run import fresh_adapter

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


def test_a_text_is_the_mean_of_its_tokens_whatever_it_is_beside(tiny_base: BaseModel) -> None:
    texts = [[1, 5, 6, 7], [1, 9], [1, *range(20, 40)]]
    together = embeddings(tiny_base, texts)
    for text, found in zip(texts, together, strict=True):
        torch.testing.assert_close(embeddings(tiny_base, [text])[0], found, rtol=1e-4, atol=1e-5)
    assert not together.isclose(embeddings(tiny_base, [[1, 5, 6, 8], [1, 10], [1, *range(21, 41)]])).all(1).any()


def test_a_text_of_nothing_of_one_token_or_of_unknown_ones_has_a_place_too(tiny_base: BaseModel) -> None:
    unknown = tiny_base.vocabulary
    found = embeddings(tiny_base, [[], [7], [unknown], [7, unknown], list(range(5, 100)) * 10])
    assert found.isfinite().all()
    torch.testing.assert_close(found[1], found[3], rtol=1e-4, atol=1e-5)


def test_long_work_is_asked_in_between_and_its_adapter_is_not(engine: Engine, tiny_base: BaseModel) -> None:
    texts = [f"sentence number {number}" for number in range(70)]
    before, asked, ended = engine.embeddings(texts), threading.Event(), threading.Event()
    adapter = fresh_adapter(tiny_base, b=0.3)

    def work(turn: Turn) -> bool:
        with using(adapter):
            asked.set()
            while not ended.wait(0.001):
                turn.pause()
        return True

    worker = threading.Thread(target=engine.run, args=(work,), daemon=True)
    worker.start()
    assert asked.wait(WAIT_SECONDS)
    try:
        assert torch.equal(engine.embeddings(texts), before)
    finally:
        ended.set()
        worker.join(WAIT_SECONDS)
    assert before.shape == (70, before.shape[1])
