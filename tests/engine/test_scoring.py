"""Losses by steps against those by whole passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from adapter_service.engine.engine import Engine
from adapter_service.engine.scoring import score_together
from adapter_service.engine.turn import Turn
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.rendering import RenderedSample
from adapter_service.training.evaluation import score

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

# More than go together; a completion of one token, and prompts that begin alike.
SAMPLES = [
    RenderedSample([(5 + 7 * place + number % 5) % 250 + 2 for place in range(9 + number % 13)], 8 - number % 3)
    for number in range(40)
]


def an_adapter(turn: Turn) -> Adapter:
    adapter = Adapter.fresh(LoraConfig(r=4), turn.layers, seed=3)
    for pair in adapter.pairs.values():
        pair.b.data.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    return adapter.frozen_copy(torch.float32)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("kernel", "bound"), [("as_loaded", 1e-4), ("modules", 1e-4), ("int8", 0.05)])
def test_steps_find_texts_as_likely_as_whole_passes_do(
    tiny_base: BaseModel, make_engine: Callable[..., Engine], kernel: str, bound: float, adapted: bool
) -> None:
    engine = make_engine(kernel=kernel)

    def both(turn: Turn) -> tuple[list[float], list[float]]:
        adapter = an_adapter(turn) if adapted else None
        whole = score(turn.base, adapter, SAMPLES, budget_tokens=512, pause=turn.pause)
        assert turn.rounds_weights == (kernel == "int8")
        return score_together(turn, SAMPLES, adapter), whole.sums

    by_steps, by_passes = engine.run(both)
    for found, wanted, sample in zip(by_steps, by_passes, SAMPLES, strict=True):
        assert found / sample.completion_tokens == pytest.approx(
            wanted / sample.completion_tokens, abs=bound, rel=bound
        )
    if kernel == "int8":
        assert by_steps != pytest.approx(by_passes, rel=1e-6)
