"""Gradient checkpointing: the same numbers, and less kept on the way to them."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch

from adapter_service.errors import NotReadyError
from adapter_service.lora.kept_outputs import KeptOutputs
from adapter_service.model_utils import BaseModel
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loop import Hooks, train
from adapter_service.training.packing import lay_out
from adapter_service.training.recomputing import decoder_layers, recomputing
from adapter_service.training.state import begin
from tests.training.small_run import Ran, fresh_adapter, run, small_settings, some_samples, weights_of

SAMPLES = some_samples(12)


@pytest.fixture(params=[True, False], ids=["packed", "padded"])
def base(request: pytest.FixtureRequest, tiny_base: BaseModel) -> BaseModel:
    return replace(tiny_base, packs_rows=request.param)


def trained(base: BaseModel, preset: str, dropout: float) -> Ran:
    settings = small_settings(preset=preset, per_device_train_batch_size=6)
    return run(base, SAMPLES, settings, adapter=fresh_adapter(base, b=0.1, dropout=dropout))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_that_recomputes_ends_in_the_same_bits(base: BaseModel, dropout: float) -> None:
    fast, small = (trained(base, preset, dropout) for preset in ("fast", "small"))
    assert fast.weights == small.weights
    assert (fast.result.preset, small.result.preset) == ("fast", "small")


def test_a_layer_keeps_its_input_and_the_outputs_that_are_no_wider_than_their_input(tiny_base: BaseModel) -> None:
    adapter = fresh_adapter(tiny_base, b=0.1)
    layers = len(decoder_layers(tiny_base.model))
    kept = _kept_numbers(tiny_base, adapter, recomputes=True)
    tokens, hidden = 12 * 24, 64
    narrow = 64 + 32 + 32 + 64 + 64  # query, key, value, output, down; up and gate are wider
    # Beside that: what the last norm and the choice of places keep.
    most = tokens * (layers * (hidden + narrow) + 4 * hidden)
    assert (
        tokens * layers * (hidden + narrow) <= kept < most < _kept_numbers(tiny_base, adapter, recomputes=False) / 1.5
    )


def _kept_numbers(base: BaseModel, adapter: Any, *, recomputes: bool) -> int:
    """How many numbers of the pass are kept for the backward pass."""
    from contextlib import nullcontext

    from adapter_service.lora.layer import using

    weights = {t.untyped_storage().data_ptr() for t in (*base.model.parameters(), *base.model.buffers())}
    weights |= {t.untyped_storage().data_ptr() for t in adapter.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    gc.collect()
    samples = [sample for sample in some_samples(400) if 16 < len(sample.ids) <= 24][:12]
    (plan,) = lay_out(samples, 10_000, packs=True, shares=True)
    again = recomputing(base.model, adapter) if recomputes else nullcontext()
    with using(adapter), again, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = completion_states(base.model, collate(base, samples, plan))
    assert states.requires_grad
    made = [output for each in gc.get_objects() if type(each) is KeptOutputs for output, _ in each._made]
    return sum(kept.values()) + sum(output.numel() for output in made)


def test_the_model_is_left_as_it_was(tiny_base: BaseModel) -> None:
    adapter = fresh_adapter(tiny_base)
    with pytest.raises(KeyError), recomputing(tiny_base.model, adapter):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in decoder_layers(tiny_base.model))


def test_a_run_that_recomputes_can_be_stopped_between_two_layers(tiny_base: BaseModel) -> None:
    asked: list[int] = []

    def pause() -> None:
        asked.append(1)
        if len(asked) > 30:
            raise NotReadyError("the service is ending")

    adapter = fresh_adapter(tiny_base)
    before = weights_of(adapter)
    settings = small_settings(preset="small", token_budget=512)
    with pytest.raises(NotReadyError):
        train(tiny_base, SAMPLES, begin(adapter, settings), settings, Hooks(pause=pause))
    assert weights_of(adapter) == before
