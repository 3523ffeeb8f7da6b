"""A version as vLLM loads it: a PEFT folder under a name of its own, in a place that its servers see too."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_service.durable import make_folder, sync_folder, sync_names

if TYPE_CHECKING:
    import torch

    from adapter_service.lora.adapter import Weights

# How folders are called that are not whole yet.
UNFINISHED = ".part-"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def write_peft_folder(weights: Mapping[str, Weights], folder: Path, *, base_name: str) -> None:
    """Write `folder`, whole or not at all; one that is there is of the same content.

    All layers get the largest rank, filled up with zeros, and their scale goes into B: patterns of ranks and alphas,
    and rsLoRA's root, are then nothing that a server has to know. `base_name` is what the server calls its base.
    """
    from safetensors.torch import save_file

    if folder.is_dir():
        return
    make_folder(folder.parent)
    rank = max(pair.a.shape[0] for pair in weights.values())
    tensors: dict[str, torch.Tensor] = {}
    for path, pair in weights.items():
        a, b = _filled(pair, rank)
        tensors[f"base_model.model.{path}.lora_A.weight"] = a
        tensors[f"base_model.model.{path}.lora_B.weight"] = b
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({path.rpartition(".")[2] for path in weights}),
        "bias": "none",
        "inference_mode": True,
    }
    work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    try:
        save_file(tensors, work / WEIGHTS_FILE, metadata={"format": "pt"})
        (work / CONFIG_FILE).write_text(json.dumps(described, indent=2) + "\n")
        sync_folder(work)
        work.chmod(0o755)  # a temporary folder is its owner's alone, and servers may be somebody else
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():  # somebody was faster: what they wrote is the same
                raise
        sync_names(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _filled(pair: Weights, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) with the scale in it."""
    import torch

    a, b = pair.a.detach().float(), pair.b.detach().float() * pair.scale
    missing = rank - a.shape[0]
    return (
        torch.cat([a, a.new_zeros(missing, a.shape[1])]).contiguous(),
        torch.cat([b, b.new_zeros(b.shape[0], missing)], dim=1).contiguous(),
    )
