"""A run that is short of memory: smaller micro-batches, the same step; and one that shall end between two layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from adapter_service.errors import NotReadyError, OutOfMemoryError
from adapter_service.model_utils import BaseModel
from adapter_service.training import loop as loop_module
from adapter_service.training.forward import MicroBatch, completion_states
from adapter_service.training.loop import Hooks, train
from adapter_service.training.progress import Progress
from adapter_service.training.state import begin
from tests.training.small_run import NO_CLIPPING, fresh_adapter, run, small_settings, some_samples, weights_of

SAMPLES = some_samples(24)
Fault = Callable[[], object]


def no_cuda_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def no_python_memory() -> None:
    raise MemoryError


def no_processor_memory() -> torch.Tensor:
    """Not feigned: no machine has so much."""
    return torch.empty(1 << 55)


def no_matrix_memory() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


FAULTS: list[Fault] = [no_cuda_memory, no_python_memory, no_processor_memory, no_matrix_memory]


@contextmanager
def memory_for(
    tokens: int, monkeypatch: pytest.MonkeyPatch, fault: Fault = no_cuda_memory, *, in_backward: bool = False
) -> Iterator[list[int]]:
    """Micro-batches of more padded tokens than that fail; yields the sizes of those that were tried."""
    tried: list[int] = []

    def states(model: Any, batch: MicroBatch, *more: Any) -> torch.Tensor:
        tried.append(batch.ids.numel())
        if batch.ids.numel() <= tokens:
            return completion_states(model, batch, *more)
        if not in_backward:
            fault()
        hidden = completion_states(model, batch, *more)
        hidden.register_hook(lambda _: fault())  # type: ignore[no-untyped-call]
        return hidden

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "completion_states", states)
        yield tried


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_without_memory_is_made_anew_in_smaller_batches_with_the_same_gradient(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch, fault: Fault, in_backward: bool
) -> None:
    settings = small_settings(
        max_steps=1, per_device_train_batch_size=16, max_grad_norm=NO_CLIPPING, token_budget=256, max_seq_length=32
    )
    whole = run(tiny_base, SAMPLES, settings, adapter=fresh_adapter(tiny_base, b=0.1))
    with memory_for(64, monkeypatch, fault, in_backward=in_backward) as tried:
        split = run(tiny_base, SAMPLES, settings, adapter=fresh_adapter(tiny_base, b=0.1))
    assert (max(tried) > 64, split.result.token_budget, whole.result.token_budget) == (True, 64, 256)
    assert (split.result.samples, split.result.steps) == (whole.result.samples, 1)
    assert split.result.first_loss == pytest.approx(whole.result.first_loss, rel=1e-6)
    torch.testing.assert_close(split.gradients, whole.gradients, rtol=1e-5, atol=1e-6)


def test_the_smaller_budget_holds_for_the_rest_of_the_run_and_is_told(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Progress] = []
    notes: list[str] = []
    settings = small_settings(per_device_train_batch_size=8, token_budget=128)
    with memory_for(64, monkeypatch) as tried:
        run(tiny_base, SAMPLES, settings, hooks=Hooks(report=told.append, note=notes.append))
    assert [progress.token_budget for progress in told] == [64, 64, 64]
    assert len([size for size in tried if size > 64]) == 1
    assert len(notes) == 1
    assert "no memory for a micro-batch of" in notes[0]
    assert "going on with a token budget of 64" in notes[0]


def test_samples_longer_than_the_smaller_budget_go_one_by_one(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [replace(sample, ids=(*range(2, 31), 1), completion_start=10) for sample in some_samples(4)]
    with memory_for(32, monkeypatch) as tried:
        result = run(tiny_base, [*long, *some_samples(4, longest=8)], small_settings(token_budget=64)).result
    assert result.samples == 8
    assert max(tried[1:]) == 32


def test_one_sample_that_does_not_fit_ends_the_run_with_the_reason(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        memory_for(8, monkeypatch),
        pytest.raises(OutOfMemoryError, match=r"one sample of \d+ tokens by itself; lower training.max_seq_length"),
    ):
        run(tiny_base, SAMPLES)


def test_another_error_of_the_libraries_is_no_shortage(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("expected scalar type Float but found Half")

    with memory_for(8, monkeypatch, broken), pytest.raises(RuntimeError, match="expected scalar type"):
        run(tiny_base, SAMPLES)


@pytest.mark.parametrize("at_call", [1, 5, 16, 20])
def test_a_run_that_shall_end_ends_at_the_next_layer(tiny_base: BaseModel, at_call: int) -> None:
    """The tiny base has 14 linear layers: the later ones are in the backward pass."""
    calls: list[int] = []

    def pause() -> None:
        calls.append(1)
        if len(calls) == at_call:
            raise NotReadyError("the service is stopping")

    state = begin(fresh_adapter(tiny_base), small_settings())
    before = weights_of(state.adapter)
    with pytest.raises(NotReadyError):
        train(tiny_base, SAMPLES, state, small_settings(), Hooks(pause=pause))
    assert (len(calls), state.step, weights_of(state.adapter)) == (at_call, 0, before)
