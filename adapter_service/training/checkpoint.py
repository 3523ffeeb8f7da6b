"""Where a run can go on from: weights, optimizer, step and totals, without pickles.

A checkpoint is a folder that appears by a rename, so one that is there is whole. The one before it
is moved aside first, and removed when the disk has the new one: at every moment one of them is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_service.durable import sync, sync_folder
from adapter_service.errors import TrainingError

if TYPE_CHECKING:
    import torch

    from adapter_service.training.loop import TrainingState

_TENSORS, _STATE = "state.safetensors", "state.json"
_STEP = "step"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(state: TrainingState, folder: Path, *, run_key: str) -> None:
    """Replace the checkpoint at `folder`; `run_key` says which run it belongs to."""
    from safetensors.torch import save_file

    work = _unfinished(folder)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    save_file(_tensors(state), work / _TENSORS)
    described = {"run_key": run_key, "step": state.step, "losses": state.losses, "totals": asdict(state.totals)}
    (work / _STATE).write_text(json.dumps(described))
    sync_folder(work)
    if folder.exists():
        _remove_aside(folder)
        folder.rename(_aside(folder))
    work.rename(folder)
    _remove_aside(folder)


def load_checkpoint(state: TrainingState, folder: Path, *, run_key: str) -> bool:
    """Put what `folder` holds into `state`; False when there is none.

    Raises:
        TrainingError: it belongs to a run with other samples, settings or base.
    """
    from safetensors.torch import load_file

    from adapter_service.training.loop import Totals

    if not has_checkpoint(folder):
        return False
    folder = folder if folder.is_dir() else _aside(folder)
    saved = json.loads((folder / _STATE).read_text())
    if saved["run_key"] != run_key:
        raise TrainingError(
            f"the checkpoint at step {saved['step']} is of a run with other samples, settings or base; "
            "take those, or start anew without resuming"
        )
    _restore(state, load_file(folder / _TENSORS))
    state.step, state.losses = int(saved["step"]), list(saved["losses"])
    state.totals = Totals(**saved["totals"])
    return True


def has_checkpoint(folder: Path) -> bool:
    """Whether `load_checkpoint` would find one for `folder`."""
    return folder.is_dir() or _aside(folder).is_dir()


def discard_checkpoint(folder: Path) -> None:
    """Remove it with all that belongs to it; a removal that is cut short leaves no part of one to be found."""
    unfinished = _unfinished(folder)
    for place in (_aside(folder), folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        if place.exists():
            place.rename(unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)


def _tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    """Weights and, of those that had a gradient yet, what the optimizer keeps of them."""
    tensors = {}
    for index, parameter in enumerate(state.adapter.parameters()):
        tensors[f"{index}.weight"] = parameter.detach().cpu().contiguous()
        kept = state.optimizer.state.get(parameter, {})
        for name in (_STEP, *_MOMENTS) if kept else ():
            tensors[f"{index}.{name}"] = kept[name].cpu().contiguous()
    return tensors


def _restore(state: TrainingState, tensors: dict[str, torch.Tensor]) -> None:
    import torch

    with torch.no_grad():
        for index, parameter in enumerate(state.adapter.parameters()):
            parameter.copy_(tensors[f"{index}.weight"])
            if f"{index}.{_STEP}" not in tensors:
                continue
            state.optimizer.state[parameter] = {
                _STEP: tensors[f"{index}.{_STEP}"],  # AdamW counts on the CPU
                **{moment: tensors[f"{index}.{moment}"].to(parameter.device) for moment in _MOMENTS},
            }


def _remove_aside(folder: Path) -> None:
    """The disk has to know the folder that is in its place before the older one goes."""
    sync(folder.parent)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".before")


def _unfinished(folder: Path) -> Path:
    return folder.with_name(folder.name + ".writing")
