"""Checkpoints: a resumed run ends where an uninterrupted one does, and a crash costs the new one alone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from adapter_service.errors import JobCancelledError, TrainingError
from adapter_service.model_utils import BaseModel
from adapter_service.training import checkpoint as checkpoint_module
from adapter_service.training.checkpoint import (
    discard_checkpoint,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from adapter_service.training.loop import Hooks, TrainingState, begin, train
from tests.training.small_run import Ran, fresh_adapter, run, small_settings, some_samples

SAMPLES = some_samples(20)
SETTINGS = small_settings(num_epochs=2, save_steps=3, learning_rate=0.01, weight_decay=0.01)


def begun(base: BaseModel, dropout: float = 0.0) -> TrainingState:
    return begin(fresh_adapter(base, dropout=dropout), SETTINGS)


def interrupted(base: BaseModel, folder: Path, *, steps: int, dropout: float = 0.0) -> None:
    """Train until `steps` are done, as a job that is stopped: what is after the last checkpoint is lost."""
    state = begun(base, dropout)
    hooks = Hooks(
        cancelled=lambda: state.step == steps, save=lambda state: save_checkpoint(state, folder, run_key="run")
    )
    with pytest.raises(JobCancelledError):
        train(base, SAMPLES, state, SETTINGS, hooks)


@pytest.mark.parametrize(("dropout", "stopped_at"), [(0.0, 4), (0.3, 8)])
def test_a_resumed_run_ends_with_the_same_bytes(
    tiny_base: BaseModel, tmp_path: Path, dropout: float, stopped_at: int
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=stopped_at, dropout=dropout)
    state = begun(tiny_base, dropout)
    assert load_checkpoint(state, tmp_path / "c", run_key="run")
    assert state.step == stopped_at // 3 * 3
    resumed = Ran(state, train(tiny_base, SAMPLES, state, SETTINGS, Hooks()))
    whole = run(tiny_base, SAMPLES, SETTINGS, adapter=fresh_adapter(tiny_base, dropout=dropout))
    assert resumed.weights == whole.weights
    assert resumed.state.losses == whole.state.losses


def test_a_resumed_run_counts_from_its_first_step(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=4)
    state = begun(tiny_base)
    load_checkpoint(state, tmp_path / "c", run_key="run")
    before = state.totals.seconds
    result = train(tiny_base, SAMPLES, state, SETTINGS, Hooks())
    assert (result.samples, result.tokens) == (40, 2 * sum(len(sample.ids) for sample in SAMPLES))
    assert result.seconds > before > 0


def test_what_never_had_a_gradient_is_kept_without_moments(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    saved, found = begun(tiny_base), begun(tiny_base)
    load_checkpoint(saved, tmp_path / "c", run_key="run")
    unused = next(saved.adapter.parameters())
    del saved.optimizer.state[unused]
    save_checkpoint(saved, tmp_path / "c", run_key="run")
    load_checkpoint(found, tmp_path / "c", run_key="run")
    assert len(found.optimizer.state) == len(saved.optimizer.state) == len(list(found.adapter.parameters())) - 1
    assert next(found.adapter.parameters()) not in found.optimizer.state
    train(tiny_base, SAMPLES, found, SETTINGS, Hooks())


def test_without_a_checkpoint_a_run_begins_at_its_beginning(tiny_base: BaseModel, tmp_path: Path) -> None:
    state = begun(tiny_base)
    assert not load_checkpoint(state, tmp_path / "c", run_key="run")
    assert state.step == 0


def test_the_checkpoint_of_another_run_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    with pytest.raises(TrainingError, match="checkpoint at step 3 is of a run with other samples"):
        load_checkpoint(begun(tiny_base), tmp_path / "c", run_key="another run")


class PowerCut(Exception):  # noqa: N818 - it is what happens, not an error of ours
    pass


Fault = Callable[[pytest.MonkeyPatch], None]


def _cut(module: object, name: str, *, at_call: int = 1) -> Fault:
    """The power goes just before the `at_call`-th call of a function."""

    def install(patch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []
        real = getattr(module, name)

        def call(*args: object, **kwargs: object) -> object:
            calls.append(1)
            if len(calls) >= at_call:
                raise PowerCut
            return real(*args, **kwargs)

        patch.setattr(module, name, call)

    return install


@pytest.mark.parametrize(
    "fault",
    [
        _cut(safetensors.torch, "save_file"),
        _cut(os, "fsync"),
        _cut(os, "fsync", at_call=2),
        _cut(Path, "rename"),
        _cut(Path, "rename", at_call=2),
        _cut(shutil, "rmtree", at_call=2),
        _cut(shutil, "rmtree", at_call=3),
    ],
)
def test_a_power_cut_while_saving_leaves_a_whole_checkpoint(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    later = begun(tiny_base)
    later.step = 6
    load_checkpoint(later, tmp_path / "c", run_key="run")
    with monkeypatch.context() as patch:
        fault(patch)
        with contextlib.suppress(PowerCut):  # some of these are not reached
            save_checkpoint(later, tmp_path / "c", run_key="run")
    found = begun(tiny_base)
    assert load_checkpoint(found, tmp_path / "c", run_key="run")
    assert Ran(found, None).weights == Ran(later, None).weights  # type: ignore[arg-type]


def test_a_checkpoint_can_be_replaced_after_a_power_cut(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = begun(tiny_base)
    interrupted(tiny_base, tmp_path / "c", steps=3)
    load_checkpoint(state, tmp_path / "c", run_key="run")
    with monkeypatch.context() as patch:
        _cut(Path, "rename", at_call=2)(patch)
        with pytest.raises(PowerCut):
            save_checkpoint(state, tmp_path / "c", run_key="run")
    save_checkpoint(state, tmp_path / "c", run_key="run")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_that_was_moved_aside_is_found_and_discarded(tiny_base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    assert not has_checkpoint(folder)
    interrupted(tiny_base, folder, steps=3)
    folder.rename(tmp_path / "c.before")
    assert has_checkpoint(folder)
    (tmp_path / "c.writing").mkdir()
    discard_checkpoint(folder)
    assert not any(tmp_path.iterdir())


def test_a_removal_that_is_cut_short_leaves_no_part_of_a_checkpoint(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    with monkeypatch.context() as patch:
        _cut(shutil, "rmtree", at_call=3)(patch)
        with pytest.raises(PowerCut):
            discard_checkpoint(tmp_path / "c")
    assert not has_checkpoint(tmp_path / "c")


def test_the_disk_knows_the_new_checkpoint_before_the_old_one_goes(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    state = begun(tiny_base)
    told: list[str] = []
    load_checkpoint(state, tmp_path / "c", run_key="run")
    for module, name in ((Path, "rename"), (checkpoint_module, "sync"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, _noting(told, getattr(module, name)))
    save_checkpoint(state, tmp_path / "c", run_key="run")
    assert told[-4:] == ["rename c", "rename c.writing", f"sync {tmp_path.name}", "rmtree c.before"]


def _noting(told: list[str], real: Callable[..., object]) -> Callable[..., object]:
    def call(path: Path, *args: object, **kwargs: object) -> object:
        told.append(f"{real.__name__} {path.name}")
        return real(path, *args, **kwargs)

    return call


def test_a_checkpoint_holds_no_pickle(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["state.json", "state.safetensors"]
