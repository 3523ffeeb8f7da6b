"""Checkpoints: a resumed run ends where an uninterrupted one does, and a crash costs the new one alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from adapter_service.errors import JobCancelledError, TrainingError
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.settings import LossSettings
from adapter_service.training import checkpoint as checkpoint_module
from adapter_service.training.checkpoint import (
    conditions,
    discard_checkpoint,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from adapter_service.training.loop import Hooks, train
from adapter_service.training.state import TrainingState, begin
from tests.training.small_run import Ran, fresh_adapter, run, small_settings, some_samples, weights_of

SAMPLES = some_samples(20)
SETTINGS = small_settings(num_epochs=2, save_steps=3, learning_rate=0.01, weight_decay=0.01, loraplus_lr_ratio=4.0)


WITH = {"threads": 1}


def begun(base: BaseModel, dropout: float = 0.0) -> TrainingState:
    return begin(fresh_adapter(base, dropout=dropout), SETTINGS)


def interrupted(base: BaseModel, folder: Path, *, steps: int, dropout: float = 0.0) -> None:
    """Train until `steps` are done, as a job that is stopped: what is after the last checkpoint is lost."""
    state = begun(base, dropout)
    hooks = Hooks(
        cancelled=lambda: state.step == steps,
        save=lambda state: save_checkpoint(state, folder, run_key="run", made_with=WITH),
    )
    with pytest.raises(JobCancelledError):
        train(base, SAMPLES, state, SETTINGS, hooks)


@pytest.mark.parametrize(("dropout", "stopped_at"), [(0.0, 4), (0.3, 8)])
def test_a_resumed_run_ends_with_the_same_bytes(
    tiny_base: BaseModel, tmp_path: Path, dropout: float, stopped_at: int
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=stopped_at, dropout=dropout)
    state = begun(tiny_base, dropout)
    assert load_checkpoint(state, tmp_path / "c", run_key="run") is not None
    assert state.step == stopped_at // 3 * 3
    resumed = Ran(state, train(tiny_base, SAMPLES, state, SETTINGS, Hooks()))
    whole = run(tiny_base, SAMPLES, SETTINGS, adapter=fresh_adapter(tiny_base, dropout=dropout))
    assert resumed.weights == whole.weights
    assert resumed.state.losses == whole.state.losses


def test_a_resumed_run_draws_the_vocabulary_that_an_uninterrupted_one_does(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    sampled = LossSettings(vocabulary="sampled", sampled_tokens=64)
    samples = [RenderedSample([2 + token % 60 for token in sample.ids], sample.completion_start) for sample in SAMPLES]
    whole, stopped, resumed = begun(tiny_base), begun(tiny_base), begun(tiny_base)
    train(tiny_base, samples, whole, SETTINGS, Hooks(), sampled)
    hooks = Hooks(
        cancelled=lambda: stopped.step == 4,
        save=lambda state: save_checkpoint(state, tmp_path / "c", run_key="run", made_with=WITH),
    )
    with pytest.raises(JobCancelledError):
        train(tiny_base, samples, stopped, SETTINGS, hooks, sampled)
    load_checkpoint(resumed, tmp_path / "c", run_key="run")
    result = train(tiny_base, samples, resumed, SETTINGS, Hooks(), sampled)
    assert result.loss_vocabulary == "sampled"
    assert resumed.losses == whole.losses
    assert weights_of(resumed.adapter) == weights_of(whole.adapter)


def test_a_resumed_run_computes_what_is_kept_as_an_uninterrupted_one_does(tiny_base: BaseModel, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"prefix_gradient": False, "embedding_noise": 0.3, "token_budget": 256})
    begin_with = tuple(range(100, 120))
    samples = [RenderedSample((*begin_with, *one.ids), 20 + one.completion_start) for one in SAMPLES]
    whole, stopped, resumed = begun(tiny_base), begun(tiny_base), begun(tiny_base)
    train(tiny_base, samples, whole, settings, Hooks())
    hooks = Hooks(
        cancelled=lambda: stopped.step == 4,
        save=lambda state: save_checkpoint(state, tmp_path / "c", run_key="run", made_with=WITH),
    )
    with pytest.raises(JobCancelledError):
        train(tiny_base, samples, stopped, settings, hooks)
    load_checkpoint(resumed, tmp_path / "c", run_key="run")
    train(tiny_base, samples, resumed, settings, Hooks())
    assert resumed.losses == whole.losses
    assert weights_of(resumed.adapter) == weights_of(whole.adapter)


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
    discard_checkpoint(tmp_path / "c")
    save_checkpoint(saved, tmp_path / "c", run_key="run")
    load_checkpoint(found, tmp_path / "c", run_key="run")
    assert len(found.optimizer.state) == len(saved.optimizer.state) == len(list(found.adapter.parameters())) - 1
    assert next(found.adapter.parameters()) not in found.optimizer.state
    train(tiny_base, SAMPLES, found, SETTINGS, Hooks())


def test_without_a_checkpoint_a_run_begins_at_its_beginning(tiny_base: BaseModel, tmp_path: Path) -> None:
    state = begun(tiny_base)
    assert load_checkpoint(state, tmp_path / "c", run_key="run") is None
    assert state.step == 0


def test_the_checkpoint_of_another_run_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    with pytest.raises(TrainingError, match="checkpoint at step 3 is of a run with other samples"):
        load_checkpoint(begun(tiny_base), tmp_path / "c", run_key="another run")


def test_the_two_newest_are_kept(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=9)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-000000006", "step-000000009"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_says_under_which_conditions_it_was_made(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    assert load_checkpoint(begun(tiny_base), tmp_path / "c", run_key="run") == WITH
    assert conditions(tiny_base)["threads"] == torch.get_num_threads()
    assert (conditions(tiny_base)["dtype"], "reason" in conditions(tiny_base)) == ("float32", False)


def test_a_token_budget_that_was_halved_stays_so(tiny_base: BaseModel, tmp_path: Path) -> None:
    state = begun(tiny_base)
    state.step, state.token_budget = 3, 32
    save_checkpoint(state, tmp_path / "c", run_key="run")
    found = begun(tiny_base)
    load_checkpoint(found, tmp_path / "c", run_key="run")
    assert found.token_budget == 32


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def _retold(place: Path, change: Change) -> None:
    """Make it a whole checkpoint with another state or other tensors."""
    told = json.loads((place / "state.json").read_text())
    tensors = safetensors.torch.load_file(place / "state.safetensors")
    change(told, tensors)
    (place / "state.json").write_text(json.dumps(told))
    safetensors.torch.save_file(tensors, place / "state.safetensors")
    described = {name: checkpoint_module._described(place / name) for name in ("state.json", "state.safetensors")}
    (place / "manifest.json").write_text(json.dumps(described))


OTHER_RELEASES: dict[str, Change] = {
    "it lacks 'losses'": lambda told, _: told.pop("losses"),
    "it lacks 'run_key'": lambda told, _: told.pop("run_key"),
    "it has 'scaler'": lambda told, _: told.update(scaler=1.0),
    "it lacks 'totals.seconds'": lambda told, _: told["totals"].pop("seconds"),
    "it has 'totals.watts'": lambda told, _: told["totals"].update(watts=3),
    "it lacks '0.weight'": lambda _, tensors: tensors.update(a=tensors.pop("0.weight")),
    "it lacks '1.exp_avg_sq'": lambda _, tensors: tensors.pop("1.exp_avg_sq"),
    "it has '0.max_exp_avg_sq'": lambda _, tensors: tensors.update({"0.max_exp_avg_sq": torch.zeros(1)}),
}


@pytest.mark.parametrize("difference", OTHER_RELEASES)
def test_the_checkpoint_of_another_release_is_refused_and_leaves_the_state_as_it_is(
    tiny_base: BaseModel, tmp_path: Path, difference: str
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    _retold(tmp_path / "c" / "step-000000003", OTHER_RELEASES[difference])
    state = begun(tiny_base)
    with pytest.raises(TrainingError, match=rf"step 3 was written by another release \({difference}\)"):
        load_checkpoint(state, tmp_path / "c", run_key="run")
    assert Ran(state, None).weights == Ran(begun(tiny_base), None).weights  # type: ignore[arg-type]
    assert (state.step, has_checkpoint(tmp_path / "c")) == (0, True)


def test_the_checkpoint_of_another_release_is_told_once_where_it_may_be_thrown_away(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=6)
    _retold(tmp_path / "c" / "step-000000006", OTHER_RELEASES["it lacks 'losses'"])
    notes: list[str] = []
    for _ in range(2):
        state = begun(tiny_base)
        assert load_checkpoint(state, tmp_path / "c", run_key="run", discards_other=True, note=notes.append) is None
    assert notes == ["the checkpoint at step 6 was written by another release (it lacks 'losses'); beginning anew"]
    assert (state.step, has_checkpoint(tmp_path / "c")) == (0, False)


Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "a flipped bit of the weights": lambda place: _flip(place / "state.safetensors"),
    "weights cut short": lambda place: os.truncate(place / "state.safetensors", 1000),
    "a flipped bit of the state": lambda place: _flip(place / "state.json"),
    "an empty manifest": lambda place: (place / "manifest.json").write_text(""),
    "no manifest": lambda place: (place / "manifest.json").unlink(),
    "no weights": lambda place: (place / "state.safetensors").unlink(),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_newest_one_the_one_before_is_taken_with_a_note(
    tiny_base: BaseModel, tmp_path: Path, damage: str
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=9)
    DAMAGES[damage](tmp_path / "c" / "step-000000009")
    notes: list[str] = []
    state = begun(tiny_base)
    assert load_checkpoint(state, tmp_path / "c", run_key="run", note=notes.append) is not None
    assert state.step == 6
    assert notes[0].startswith("the checkpoint at step 000000009 is damaged")
    resumed = Ran(state, train(tiny_base, SAMPLES, state, SETTINGS, Hooks()))
    assert resumed.weights == run(tiny_base, SAMPLES, SETTINGS, adapter=fresh_adapter(tiny_base)).weights


def test_where_both_are_damaged_a_run_begins_at_its_beginning(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=6)
    for place in (tmp_path / "c").iterdir():
        _flip(place / "state.json")
    state = begun(tiny_base)
    assert load_checkpoint(state, tmp_path / "c", run_key="run") is None
    assert (state.step, has_checkpoint(tmp_path / "c")) == (0, False)


def test_a_step_that_is_kept_already_is_not_written_again(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    kept = tmp_path / "c" / "step-000000003"
    before = kept.stat()
    state = begun(tiny_base)
    load_checkpoint(state, tmp_path / "c", run_key="run")
    save_checkpoint(state, tmp_path / "c", run_key="run")
    assert kept.stat() == before


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
    ("fault", "kept"),
    [
        (_cut(safetensors.torch, "save_file"), 9),
        (_cut(json, "dumps", at_call=2), 9),
        (_cut(os, "fsync"), 9),
        (_cut(os, "fsync", at_call=4), 9),
        (_cut(Path, "rename"), 9),
        (_cut(os, "fsync", at_call=5), 12),
        (_cut(shutil, "rmtree", at_call=3), 12),
    ],
)
def test_a_power_cut_while_saving_leaves_a_whole_checkpoint(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, kept: int
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=9)
    later = begun(tiny_base)
    load_checkpoint(later, tmp_path / "c", run_key="run")
    later.step = 12
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(PowerCut):
            save_checkpoint(later, tmp_path / "c", run_key="run", made_with=WITH)
    found = begun(tiny_base)
    assert load_checkpoint(found, tmp_path / "c", run_key="run") == WITH
    assert found.step == kept
    assert Ran(found, None).weights == Ran(later, None).weights  # type: ignore[arg-type]
    save_checkpoint(later, tmp_path / "c", run_key="run")  # and the next one is saved as ever
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert max(path.name for path in (tmp_path / "c").iterdir()) == "step-000000012"


def test_of_a_checkpoint_that_does_not_fit_on_the_disk_nothing_stays(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    interrupted(tiny_base, tmp_path / "c", steps=3)
    state = begun(tiny_base)
    state.step = 6
    monkeypatch.setattr(checkpoint_module, "sync_folder", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(state, tmp_path / "c", run_key="run")
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["c", "step-000000003"]


def test_checkpoints_are_discarded_with_what_was_being_written(tiny_base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    assert not has_checkpoint(folder)
    interrupted(tiny_base, folder, steps=3)
    assert has_checkpoint(folder)
    (tmp_path / "c.writing").mkdir()
    discard_checkpoint(folder)
    assert not any(tmp_path.iterdir())


def test_the_disk_knows_the_new_checkpoint_before_an_old_one_goes(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=6)
    state = begun(tiny_base)
    told: list[str] = []
    load_checkpoint(state, tmp_path / "c", run_key="run")
    state.step = 9
    for module, name in ((Path, "rename"), (checkpoint_module, "sync"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, _noting(told, getattr(module, name)))
    save_checkpoint(state, tmp_path / "c", run_key="run")
    assert told[-3:] == ["rename c.writing", "sync c", "rmtree step-000000003"]


def _noting(told: list[str], real: Callable[..., object]) -> Callable[..., object]:
    def call(path: Path, *args: object, **kwargs: object) -> object:
        told.append(f"{real.__name__} {path.name}")
        return real(path, *args, **kwargs)

    return call


def test_a_checkpoint_holds_no_pickle(tiny_base: BaseModel, tmp_path: Path) -> None:
    interrupted(tiny_base, tmp_path / "c", steps=3)
    files = sorted(path.name for path in (tmp_path / "c" / "step-000000003").iterdir())
    assert files == ["manifest.json", "state.json", "state.safetensors"]
