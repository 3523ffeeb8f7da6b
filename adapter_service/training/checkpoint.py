"""Where a run can go on from: weights, optimizer and step, without pickles.

A checkpoint is a folder that appears by a rename, so one that is there is whole. The one before it
is moved aside first and removed last: at every moment one of the two is in its place.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from adapter_service.durable import sync_folder
from adapter_service.errors import TrainingError
from adapter_service.training.loop import TrainingState

_TENSORS, _STATE = "state.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(state: TrainingState, folder: Path, *, run_key: str) -> None:
    """Replace the checkpoint at `folder`; `run_key` says which run it belongs to."""
    work = folder.with_name(folder.name + ".writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tensors = {}
    for index, parameter in enumerate(state.adapter.parameters()):
        tensors[f"{index}.weight"] = parameter.detach().cpu().contiguous()
        for moment in _MOMENTS:
            tensors[f"{index}.{moment}"] = state.optimizer.state[parameter][moment].cpu().contiguous()
    save_file(tensors, work / _TENSORS)
    (work / _STATE).write_text(json.dumps({"run_key": run_key, "step": state.step, "losses": state.losses}))
    sync_folder(work)
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
        folder.rename(_aside(folder))
    work.rename(folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def load_checkpoint(state: TrainingState, folder: Path, *, run_key: str) -> bool:
    """Put what `folder` holds into `state`; False when there is none.

    Raises:
        TrainingError: it belongs to a run with other samples, settings or base.
    """
    folder = folder if folder.is_dir() else _aside(folder)
    if not folder.is_dir():
        return False
    saved = json.loads((folder / _STATE).read_text())
    if saved["run_key"] != run_key:
        raise TrainingError(
            f"the checkpoint at step {saved['step']} is of a run with other samples, settings or base; "
            "take those, or start anew without resuming"
        )
    tensors = load_file(folder / _TENSORS)
    with torch.no_grad():
        for index, parameter in enumerate(state.adapter.parameters()):
            parameter.copy_(tensors[f"{index}.weight"])
            state.optimizer.state[parameter] = {
                "step": torch.tensor(float(saved["step"])),
                **{moment: tensors[f"{index}.{moment}"].to(parameter.device) for moment in _MOMENTS},
            }
    state.step, state.losses = int(saved["step"]), list(saved["losses"])
    return True


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".before")
