"""The law of one base for both: what is answered inside a pass changes no bit of it, nor is it changed by it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapter_service.base_models import pauses
from adapter_service.base_models.attention import packing_in_use
from adapter_service.errors import JobCancelledError
from adapter_service.lora import layer
from adapter_service.lora.kept_outputs import KeptOutputs, kept_outputs_in_use
from adapter_service.model_utils import BaseModel, load_base
from adapter_service.settings import LossSettings
from adapter_service.training import loop as loop_module
from adapter_service.training import recomputing as recomputing_module
from adapter_service.training.evaluation import score
from adapter_service.training.forward import MicroBatch, completion_states
from adapter_service.training.loop import Hooks, train
from adapter_service.training.recomputing import decoder_layers, recomputing
from adapter_service.training.state import TrainingState, begin
from tests.conftest import SMALL_BASE
from tests.training.serving import Serving
from tests.training.small_run import Ran, fresh_adapter, run, small_settings, some_samples

Preset = Literal["fast", "small"]
SAMPLES = some_samples(8)
# Two optimizer steps, of two micro-batches each.
SHAPE: dict[str, Any] = {"per_device_train_batch_size": 4, "token_budget": 48}
LAYERS = 14


def bits(ran: Ran) -> tuple[list[bytes], list[bytes], list[float]]:
    """Weights, what the optimizer has of all gradients so far, and losses."""
    return ran.weights, [gradient.numpy().tobytes() for gradient in ran.gradients], ran.state.losses


def pauses_of(preset: Preset) -> int:
    """In a run of `SHAPE`.

    For each micro-batch before it, in its forward pass, before the one block of its loss, in its backward pass and in
    a second run; and before each of two optimizer steps.
    """
    passes = 3 if preset == "small" else 2
    return 4 * (2 + passes * LAYERS) + 2


def trained(base: BaseModel, preset: Preset, dropout: float = 0.3, hooks: Hooks | None = None) -> Ran:
    chosen = small_settings(preset=preset, **SHAPE)
    return run(base, SAMPLES, chosen, adapter=fresh_adapter(base, b=0.1, dropout=dropout), hooks=hooks)


@pytest.fixture(params=[True, False], ids=["packed", "padded"])
def base(request: pytest.FixtureRequest, tiny_base: BaseModel) -> BaseModel:
    return replace(tiny_base, packs_rows=request.param)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("preset", ["fast", "small"])
def test_neither_training_nor_answers_differ_when_every_layer_answers(
    base: BaseModel, preset: Preset, dropout: float
) -> None:
    serving = Serving(base)
    alone, outside = trained(base, preset, dropout), serving.answer()
    among = trained(base, preset, dropout, Hooks(pause=serving.pause))
    assert bits(among) == bits(alone)
    assert set(serving.answers) == {outside}
    assert len(serving.answers) == serving.pauses == pauses_of(preset)


@pytest.mark.parametrize("preset", ["fast", "small"])
def test_layers_that_only_pass_a_gradient_on_pause_too(tiny_base: BaseModel, preset: Preset) -> None:
    def with_hooks(hooks: Hooks) -> Ran:
        adapter = fresh_adapter(tiny_base, b=0.1, target_modules=("q_proj",))
        return run(tiny_base, SAMPLES[:2], small_settings(preset=preset), adapter=adapter, hooks=hooks)

    serving = Serving(tiny_base)
    assert bits(with_hooks(Hooks(pause=serving.pause))) == bits(with_hooks(Hooks()))
    assert set(serving.answers) == {serving.answer()}
    # In the backward pass all but keys and values of the first layer, through which no gradient goes.
    assert serving.pauses == 3 + 2 * LAYERS - 2 + (LAYERS if preset == "small" else 0)


def test_answers_in_a_pass_are_not_the_base_s_nor_those_of_what_is_trained(tiny_base: BaseModel) -> None:
    """Else the law would hold for nothing."""
    assert len({Serving(tiny_base, b=b).answer() for b in (0.0, 0.1, 0.3)}) == 3


@cache
def undisturbed(folder: Path, preset: Preset, packs: bool, dropout: float) -> tuple[BaseModel, Any, bytes]:
    base = load_base(str(folder), bases_dir=folder, device="cpu", dtype="float32")
    base = replace(base, packs_rows=packs)
    return base, bits(trained(base, preset, dropout)), Serving(base).answer()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(
    preset=st.sampled_from(["fast", "small"]),
    packs=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
    places=st.sets(st.integers(0, pauses_of("small"))),
)
def test_wherever_it_answers_the_bits_are_the_same(
    tiny_base_folder: Path, preset: Preset, packs: bool, dropout: float, places: set[int]
) -> None:
    base, alone, outside = undisturbed(tiny_base_folder, preset, packs, dropout)
    serving = Serving(base, places.__contains__)
    assert bits(trained(base, preset, dropout, Hooks(pause=serving.pause))) == alone
    assert set(serving.answers) <= {outside}


@pytest.mark.parametrize("preset", ["fast", "small"])
def test_a_base_in_eight_bits_trains_and_answers_alike(tiny_base_folder: Path, preset: Preset) -> None:
    """Its products of training and of answers are made in the same room."""
    base = load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="bfloat16", use_8bit=True)
    serving = Serving(base)
    alone, outside = trained(base, preset), serving.answer()
    assert bits(trained(base, preset, hooks=Hooks(pause=serving.pause))) == bits(alone)
    assert set(serving.answers) == {outside}


def test_a_loss_over_some_tokens_pauses_too_and_stays_the_same(tiny_base: BaseModel) -> None:
    def weights(hooks: Hooks) -> list[bytes]:
        state = begin(fresh_adapter(tiny_base, b=0.1), small_settings())
        train(tiny_base, SAMPLES, state, small_settings(), hooks, LossSettings(vocabulary="sampled", sampled_tokens=64))
        return [parameter.detach().numpy().tobytes() for parameter in state.adapter.parameters()]

    serving = Serving(tiny_base)
    assert weights(Hooks(pause=serving.pause)) == weights(Hooks())
    assert set(serving.answers) == {serving.answer()}


@pytest.mark.model
@pytest.mark.parametrize("preset", ["fast", "small"])
def test_a_real_base_in_bfloat16_trains_and_answers_alike(bases_dir: Path, preset: Preset) -> None:
    base = load_base(SMALL_BASE, bases_dir=bases_dir, device="cpu", dtype="bfloat16")
    samples, chosen = some_samples(2, longest=12), small_settings(preset=preset, max_steps=1)
    serving = Serving(base, lambda place: place % 30 == 0, b=0.02)  # each of a block's seven layers has its turn

    def with_hooks(hooks: Hooks) -> Ran:
        return run(base, samples, chosen, adapter=fresh_adapter(base, b=0.02, dropout=0.1), hooks=hooks)

    alone, outside = with_hooks(Hooks()), serving.answer()
    assert bits(with_hooks(Hooks(pause=serving.pause))) == bits(alone)
    assert set(serving.answers) == {outside}
    assert serving.pauses > 2 * 30 * 7


def test_a_backward_pass_pauses_on_the_thread_that_trains(tiny_base: BaseModel) -> None:
    """On CUDA autograd has threads of its own, if it may: no processor shows more than that it may not."""
    seen: list[tuple[str, bool]] = []

    def pause() -> None:
        seen.append((threading.current_thread().name, torch._C._is_multithreading_enabled()))

    run(tiny_base, SAMPLES[:2], hooks=Hooks(pause=pause))
    before_the_step, (_, *in_passes) = seen.pop(), seen
    assert set(in_passes) == {("MainThread", False)}
    assert before_the_step == ("MainThread", True)


# Scoring.


def test_scores_and_answers_are_the_same_when_every_layer_answers(base: BaseModel) -> None:
    serving, adapter = Serving(base), fresh_adapter(base, b=0.1).frozen_copy(torch.float32)
    alone = score(base, adapter, SAMPLES, budget_tokens=64, pause=lambda: None)
    assert score(base, adapter, SAMPLES, budget_tokens=64, pause=serving.pause) == alone
    assert set(serving.answers) == {serving.answer()}
    assert serving.pauses % (LAYERS + 1) == 0


# Endings.


def nothing_is_left(base: BaseModel, state: TrainingState) -> bool:
    """Of a pass: no context, no hook, no mode, no layer that is run again, no numbers for dropout."""
    contexts: list[object] = [pauses._pause.get(), packing_in_use(), kept_outputs_in_use(), layer._in_use.get()]
    contexts += [torch._C._autograd._top_saved_tensors_default_hooks(True), state.adapter.dropout_generator]
    patched = any("forward" in vars(each) for each in decoder_layers(base.model))
    modes = (torch.is_grad_enabled(), torch._C._is_multithreading_enabled(), torch.is_inference_mode_enabled())
    return contexts == [None] * 6 and not patched and modes == (True, True, False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(preset=st.sampled_from(["fast", "small"]), packs=st.booleans(), data=st.data())
def test_a_run_that_is_cancelled_at_any_layer_goes_on_from_its_last_step_to_the_same_bits(
    tiny_base_folder: Path, preset: Preset, packs: bool, data: st.DataObject
) -> None:
    base, alone, _ = undisturbed(tiny_base_folder, preset, packs, 0.3)
    pauses = pauses_of(preset)
    place, chosen = data.draw(st.integers(0, pauses - 1)), small_settings(preset=preset, **SHAPE)
    state, asked = begin(fresh_adapter(base, b=0.1, dropout=0.3), chosen), iter(range(pauses))
    with pytest.raises(JobCancelledError):
        train(base, SAMPLES, state, chosen, Hooks(cancelled=lambda: next(asked) == place))
    assert state.step == place // (pauses // 2)
    assert nothing_is_left(base, state)
    assert bits(Ran(state, train(base, SAMPLES, state, chosen, Hooks()))) == alone


# Memory.


@pytest.fixture
def without_gc() -> Iterator[None]:
    """Nothing is freed but what nobody refers to any more."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_gc")
@pytest.mark.parametrize("cancels", [False, True])
@pytest.mark.parametrize("preset", ["fast", "small"])
def test_a_pass_in_which_answers_were_given_leaves_no_graph_behind(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch, preset: Preset, cancels: bool
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def watched(model: Any, batch: MicroBatch, *more: Any) -> torch.Tensor:
        states = completion_states(model, batch, *more)
        made.append(weakref.ref(states))
        return states

    monkeypatch.setattr(loop_module, "completion_states", watched)
    serving = Serving(tiny_base, lambda place: place % 3 == 0)
    before = _kept()
    in_backward = 40 if preset == "small" else 25
    hooks = Hooks(pause=serving.pause, cancelled=lambda: cancels and serving.pauses == in_backward)
    with suppress(JobCancelledError):
        trained(tiny_base, preset, hooks=hooks)
    assert [states() for states in made] == [None] * (1 if cancels else 4)
    assert _kept() == before


def _kept() -> int:
    return sum(type(each) is KeptOutputs for each in gc.get_objects())


def test_an_answer_in_a_run_that_recomputes_goes_through_the_layers_as_they_are(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("an answer is not run again")

    serving = Serving(tiny_base)
    outside = serving.answer()
    monkeypatch.setattr(recomputing_module, "checkpoint", never)
    with recomputing(tiny_base.model, fresh_adapter(tiny_base)):
        assert serving.answer() == outside
