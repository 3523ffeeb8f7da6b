"""Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`.

PEFT opens what is written here, and what PEFT wrote is read here, or refused with the reason:
kinds of LoRA that change the base's own weights or need more than a product beside a linear layer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from adapter_service.errors import AdapterFormatError
from adapter_service.lora.adapter import Adapter, LinearLayer, LoraConfig, LowRankPair, are_finite, check_fits

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_A, _B = ".lora_A.weight", ".lora_B.weight"
# Set in a config, each of these means an adapter that is more than products beside linear layers.
_REFUSED_WHEN_SET = (
    "use_dora", "modules_to_save", "lora_bias", "target_parameters", "alora_invocation_tokens",
    "trainable_token_indices", "layer_replication", "use_qalora", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "auto_map",
)  # fmt: skip
# What else PEFT (0.21) writes: read here, or of no effect once the matrices are there.
_KNOWN = frozenset({
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern",
    "bias", "init_lora_weights", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "exclude_modules", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "megatron_config",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config",
    "qalora_group_size", "runtime_config", "ensure_weight_tying", *_REFUSED_WHEN_SET,
})  # fmt: skip
# Initial values that subtract from the base's weights: the folder is right only on a changed base.
_REFUSED_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")


def write_folder(adapter: Adapter, folder: Path, *, base_name: str) -> None:
    """Write the two files into `folder`; making that visible at once is the caller's part."""
    config = adapter.config
    tensors = {}
    for path, pair in adapter.pairs.items():
        tensors[f"{_PREFIX}{path}{_A}"] = pair.a.detach().cpu().contiguous()
        tensors[f"{_PREFIX}{path}{_B}"] = pair.b.detach().cpu().contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(adapter.pairs),
        "use_rslora": config.use_rslora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")


def read_folder(folder: Path, layers: Mapping[str, LinearLayer]) -> Adapter:
    """Read an adapter for the base whose linear layers are `layers`.

    Raises:
        AdapterFormatError: as `read_weights`.
    """
    config, weights = read_weights(folder, layers)
    return Adapter(config, {path: LowRankPair(w.a, w.b, w.scale, config.dropout) for path, w in weights.items()})


class FileWeights(NamedTuple):
    """One layer's matrices as they are in the file, A (r, in) and B (out, r), and what their product is times."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


def read_weights(folder: Path, layers: Mapping[str, LinearLayer]) -> tuple[LoraConfig, dict[str, FileWeights]]:
    """What `read_folder` makes an adapter of; to serve, nothing more is wanted, and modules are a quarter of the time.

    Raises:
        AdapterFormatError: a file missing, a kind that is not served, weights that do not fit the
            base or are not finite.
    """
    config = read_config(folder)
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    if not tensors:
        raise AdapterFormatError(f"{WEIGHTS_FILE} holds no weights; the adapter would answer as the base does")
    pairs = {}
    for path in dict.fromkeys(_path_of(key) for key in tensors):
        a, b = (tensors.get(f"{_PREFIX}{path}{end}") for end in (_A, _B))
        if a is None or b is None:
            raise AdapterFormatError(f"{WEIGHTS_FILE} has only one of the two matrices of {path!r}")
        if not (a.dtype in _DTYPES and b.dtype in _DTYPES and a.dim() == b.dim() == 2):
            raise AdapterFormatError(f"the weights of {path!r} are no matrices of 16- to 64-bit floating-point numbers")
        if a.shape[0] != config.rank(path):
            raise AdapterFormatError(f"{path!r} has rank {a.shape[0]}, its config says {config.rank(path)}")
        pairs[path] = FileWeights(a, b, config.scale(path))
    check_fits(pairs, layers)
    if not are_finite(pairs.values()):
        raise AdapterFormatError(f"{WEIGHTS_FILE} holds values that are not finite")
    return config, pairs


def read_config(folder: Path) -> LoraConfig:
    """Read and judge `adapter_config.json`.

    Raises:
        AdapterFormatError: it is missing, no JSON, or describes a kind that is not served.
    """
    try:
        described: dict[str, Any] = dict(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AdapterFormatError(f"{CONFIG_FILE} is missing or unreadable: {type(error).__name__}") from error
    _refuse_other_kinds(described)
    try:
        return _lora_config(described)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, re.error) as error:
        raise AdapterFormatError(f"{CONFIG_FILE} holds a value that cannot be: {error}") from error


def _lora_config(described: Mapping[str, Any]) -> LoraConfig:
    targets = described.get("target_modules") or ()
    ranks = {re.compile(key).pattern: int(rank) for key, rank in (described.get("rank_pattern") or {}).items()}
    alphas = {re.compile(key).pattern: float(alpha) for key, alpha in (described.get("alpha_pattern") or {}).items()}
    if min([int(described["r"]), *ranks.values()]) < 1:
        raise ValueError(f"rank {described['r']} or one of {ranks}; a rank is at least 1")
    return LoraConfig(
        r=int(described["r"]),
        alpha=float(described["lora_alpha"]),
        dropout=float(described.get("lora_dropout") or 0.0),
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        use_rslora=bool(described.get("use_rslora")),
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )


def _refuse_other_kinds(described: Mapping[str, Any]) -> None:
    if described.get("peft_type") != "LORA":
        raise AdapterFormatError(f"adapter of kind {described.get('peft_type')!r}; only LORA is served")
    if missing := [key for key in ("r", "lora_alpha") if key not in described]:
        raise AdapterFormatError(f"{CONFIG_FILE} has no {missing}")
    if found := [key for key in _REFUSED_WHEN_SET if described.get(key)]:
        raise AdapterFormatError(f"adapter with {found} set; plain LoRA on linear layers is served")
    if unknown := [key for key, value in described.items() if key not in _KNOWN and value]:
        raise AdapterFormatError(f"adapter with {unknown} set, which is not known here; plain LoRA is served")
    if described.get("bias", "none") != "none":
        raise AdapterFormatError(f"adapter with bias {described['bias']!r}; only 'none' is served")
    init = str(described.get("init_lora_weights", True)).lower()
    if init.startswith(_REFUSED_INITS):
        raise AdapterFormatError(f"adapter started with {init!r}, which changes the base's weights; convert it first")


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Not safe_open: its get_tensor (safetensors 0.8.0) never frees 64 bytes of every tensor, 26 KiB for each
        # adapter that is loaded, which a service that changes adapters with every request does all day.
        tensors: dict[str, torch.Tensor] = load(path.read_bytes())
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise AdapterFormatError(f"{path.name} is missing or no safetensors file") from error
    return dict(sorted(tensors.items()))


def _path_of(key: str) -> str:
    for end in (_A, _B):
        if key.startswith(_PREFIX) and key.endswith(end):
            return key[len(_PREFIX) : -len(end)]
    raise AdapterFormatError(f"{WEIGHTS_FILE} holds {key!r}, which is no LoRA matrix of a linear layer")
