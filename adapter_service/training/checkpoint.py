"""Where a run can go on from: weights, optimizer, step, totals and token budget, without pickles.

Checkpoints are folders `step-<number>` in one folder. Each is written beside it, with a manifest of
sizes and hashes, and appears by a rename when the disk has it all; the two newest are kept. The newest
whose bytes are those of its manifest is taken: one that the disk has damaged costs an interval more.

What is not in it follows from the step and the settings: the learning rate, the numbers of dropout
(a generator for each step), and which samples make which step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Container, Iterator, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_service.durable import make_folder, sync, sync_folder
from adapter_service.errors import TrainingError

if TYPE_CHECKING:
    import torch

    from adapter_service.model_utils import BaseModel
    from adapter_service.training.state import TrainingState

KEPT = 2
_TENSORS, _STATE, _MANIFEST = "state.safetensors", "state.json", "manifest.json"
_STEP = "step"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    state: TrainingState, folder: Path, *, run_key: str, made_with: Mapping[str, Any] | None = None
) -> None:
    """Add a checkpoint to `folder` and remove what is older than the two newest.

    Where this step is kept already nothing is written: a run's steps are the same each time.
    `run_key` says which run it belongs to, `made_with` under which conditions its steps were made.
    """
    from safetensors import SafetensorError

    work, target = _unfinished(folder), _folder_of(folder, state.step)
    if _fault_of(target) is None:
        return
    shutil.rmtree(work, ignore_errors=True)
    make_folder(folder)
    work.mkdir()
    try:
        _write(state, work, run_key, made_with or {})
    except (OSError, SafetensorError):
        shutil.rmtree(work, ignore_errors=True)  # a part of one would help to keep a full disk full
        raise
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
    sync(folder)
    for older in _newest_first(folder)[KEPT:]:
        shutil.rmtree(older, ignore_errors=True)


def _write(state: TrainingState, work: Path, run_key: str, made_with: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(_tensors(state), work / _TENSORS)
    (work / _STATE).write_text(json.dumps(_told(state, run_key, made_with)))
    (work / _MANIFEST).write_text(json.dumps({name: _described(work / name) for name in (_TENSORS, _STATE)}))
    sync_folder(work)


def _told(state: TrainingState, run_key: str, made_with: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run_key": run_key,
        "step": state.step,
        "token_budget": state.token_budget,
        "made_with": dict(made_with),
        "losses": state.losses,
        "totals": asdict(state.totals),
    }


def load_checkpoint(
    state: TrainingState,
    folder: Path,
    *,
    run_key: str,
    discards_other: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Mapping[str, Any] | None:
    """Put the newest whole checkpoint of `folder` into `state`; what it was made with, or None without one.

    One that is damaged is told to `note` and removed; with `discards_other`, so are all where the newest
    is another run's or another release's.

    Raises:
        TrainingError: it is of a run with other samples, settings or base, or was written by another
            release, and is not to be thrown away.
    """
    from safetensors.torch import load_file

    from adapter_service.training.state import Totals

    for place in _newest_first(folder):
        if (fault := _fault_of(place)) is not None:
            note(f"the checkpoint at {place.name.replace('-', ' ')} is damaged ({fault}) and passed over")
            shutil.rmtree(place, ignore_errors=True)
            continue
        saved, tensors = json.loads((place / _STATE).read_text()), load_file(place / _TENSORS)
        if (reason := _other(saved, tensors, state, run_key)) is not None:
            reason = f"the checkpoint at step {int(place.name.removeprefix('step-'))} {reason}"
            if not discards_other:
                raise TrainingError(f"{reason}; take the same as then, or start anew without resuming")
            note(f"{reason}; beginning anew")
            discard_checkpoint(folder)
            return None
        _restore(state, tensors)
        state.step, state.losses = int(saved["step"]), list(saved["losses"])
        state.token_budget, state.totals = int(saved["token_budget"]), Totals(**saved["totals"])
        made_with: Mapping[str, Any] = saved["made_with"]
        return made_with
    return None


def _other(
    saved: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], state: TrainingState, run_key: str
) -> str | None:
    """Why a whole checkpoint is not one that this run goes on from; None where it is."""
    difference = _difference(_names(saved), _names(_told(state, run_key, {})))
    if difference is None and saved["run_key"] != run_key:
        return "is of a run with other samples, settings or base"
    difference = difference or _difference(tensors.keys(), set(_tensor_names(state, tensors)))
    return difference and f"was written by another release ({difference})"


def _difference(found: Set[str], wanted: Set[str]) -> str | None:
    if missing := sorted(wanted - found):
        return f"it lacks {missing[0]!r}"
    return f"it has {min(found - wanted)!r}" if found - wanted else None


def _names(told: Mapping[str, Any]) -> set[str]:
    return {*told, *(f"totals.{name}" for name in told.get("totals", ()))}


def _tensor_names(state: TrainingState, found: Container[str]) -> Iterator[str]:
    """Those that `found` should have: the moments of what never had a gradient are not kept."""
    for index, _ in enumerate(state.adapter.parameters()):
        yield f"{index}.weight"
        if f"{index}.{_STEP}" in found:
            yield from (f"{index}.{name}" for name in (_STEP, *_MOMENTS))


def has_checkpoint(folder: Path) -> bool:
    """Whether there is anything to load; that it is whole is seen when it is loaded."""
    return bool(_newest_first(folder))


def discard_checkpoint(folder: Path) -> None:
    """Remove all of them; of one whose removal is cut short no part is ever taken for a whole."""
    for place in (folder, _unfinished(folder)):
        shutil.rmtree(place, ignore_errors=True)


def conditions(base: BaseModel) -> dict[str, Any]:
    """What the bytes of a result depend on beside its recipe: how the machine multiplies."""
    import torch

    precision = base.precision.to_dict()
    del precision["reason"]  # has a start's measurement in it
    threads = torch.get_num_threads() if base.device.type == "cpu" else None
    return {**precision, "threads": threads, "torch": torch.__version__}


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
            # Fused AdamW counts its steps where the parameter is.
            kept = {name: tensors[f"{index}.{name}"].to(parameter.device) for name in (_STEP, *_MOMENTS)}
            state.optimizer.state[parameter] = kept


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)  # the numbers have one width


def _folder_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def _unfinished(folder: Path) -> Path:
    return folder.with_name(folder.name + ".writing")


def _fault_of(place: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None where they are what was written."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text())
        wrong = [name for name in (_TENSORS, _STATE) if _described(place / name) != manifest[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return type(error).__name__
    return f"other bytes in {', '.join(wrong)}" if wrong else None


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size_bytes": path.stat().st_size, "sha256": digest}
