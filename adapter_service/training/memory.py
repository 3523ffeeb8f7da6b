"""How much memory training takes beside the base, before it is tried: an estimate, and what is free.

    1.85 × tokens × item size × sum of inputs and outputs of the linear layers    what the backward pass needs
    16 × adapter weights                                                          float32, gradient, AdamW's two moments
    128 × vocabulary × (2 × item size + 4)                                        the loss, a chunk of rows at a time

The first factor is the least that leaves no measured point above its estimate: growth of resident memory
in two steps at rank 16, on a CPU, of random weights in these shapes (torch 2.13; MB):

    shape           layers    type        tokens    measured    estimated
    SmolLM2-135M    30        bfloat16       256         372          398
    SmolLM2-135M    30        bfloat16       512         602          674
    SmolLM2-135M    30        bfloat16     1,024       1,075        1,225
    SmolLM2-135M    30        float32        512       1,058        1,249
    Gemma 3 270M    18        bfloat16       512         693          743
    Gemma 3 270M     6        float32        512         626          688
    Qwen3-0.6B       8        bfloat16       512         514          518

It is not of the engine's adapters, nor of answers that are given meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from adapter_service.errors import DoesNotFitError
from adapter_service.lora.adapter import LinearLayer, LoraConfig, select_layers
from adapter_service.model_utils import BaseModel
from adapter_service.settings import TrainingSettings
from adapter_service.training.batching import padded_length, sequences_per_step
from adapter_service.training.loss import CHUNK_ROWS, Head

_ACTIVATIONS = 1.85
_BYTES_PER_WEIGHT = 16
# A group's limit and use, where the process is held to less than the machine has (a container).
_GROUP_LIMIT, _GROUP_USE = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def largest_micro_batch(settings: TrainingSettings, longest: int) -> int:
    """Padded tokens of the largest micro-batch, where no sample is longer than `longest` tokens."""
    padded = padded_length(longest)
    return max(padded, min(settings.token_budget, sequences_per_step(settings) * padded))


def estimate_bytes(base: BaseModel, layers: Mapping[str, LinearLayer], lora: LoraConfig, tokens: int) -> int:
    """What training takes beside the base, with micro-batches of up to `tokens` padded tokens."""
    item = base.precision.dtype.itemsize
    widths = sum(layer.in_features + layer.out_features for layer in layers.values())
    activations = _ACTIVATIONS * tokens * item * widths
    chosen = select_layers(lora, layers)
    if lora.dropout:  # each layer then keeps an input of its own, and which of it was dropped
        activations += tokens * (item + 1) * sum(layer.in_features for layer in chosen.values())
    weights = sum(lora.rank(path) * (layer.in_features + layer.out_features) for path, layer in chosen.items())
    vocabulary = Head.of(base.model).weight.shape[0]
    return int(activations + _BYTES_PER_WEIGHT * weights + CHUNK_ROWS * vocabulary * (2 * item + 4))


def free_bytes(device: torch.device) -> int:
    """What can be had now on the device that trains."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    available = int(psutil.virtual_memory().available)
    return available if (left := _left_in_group()) is None else min(available, left)


def check_fits(
    base: BaseModel, layers: Mapping[str, LinearLayer], lora: LoraConfig, settings: TrainingSettings, longest: int
) -> None:
    """Refuse a run that this machine has not the memory for.

    Raises:
        DoesNotFitError: the estimate is more than what is free; with both, and what to lower.
    """
    tokens = largest_micro_batch(settings, longest)
    needed, free = estimate_bytes(base, layers, lora, tokens), free_bytes(base.device)
    if needed <= free:
        return
    where = "on the GPU" if base.device.type == "cuda" else "of memory"
    raise DoesNotFitError(
        f"training would take about {_megabytes(needed)} MB {where} beside the base, and {_megabytes(free)} MB are "
        f"free. It is for micro-batches of {tokens} tokens at rank {lora.r}: lower token_budget "
        f"(now {settings.token_budget}) and max_seq_length (now {settings.max_seq_length}), or lora_r"
    )


def _left_in_group() -> int | None:
    try:
        return int(_GROUP_LIMIT.read_text()) - int(_GROUP_USE.read_text())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None


def _megabytes(size: int) -> int:
    return round(size / (1 << 20))
