"""Whether an adapter's files are fit to be served with a base: looked at before any of them is believed.

Nothing that is read here can run code: JSON, and safetensors of which first the header, then the
numbers are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_service.adapters.artifact import check_files
from adapter_service.errors import AdapterFormatError

if TYPE_CHECKING:
    from adapter_service.lora.adapter import LinearLayer
    from adapter_service.model_utils import BaseOutline

MAX_RANK = 1024
_MAX_ALPHA = 65_536.0
_MAX_NAME = 300
_MAX_PATTERNS = 1000
# What can be matched in many ways can take for ever to compare; one group and two quantifiers over a short path cannot.
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_QUANTIFIER = re.compile(r"[*+?{]")


def judge_files(folder: Path, base: BaseOutline) -> None:
    """Check all that can be checked of an adapter's files without answering with it.

    The files, no link or pickle among them; the config's kind, ranks and patterns; each tensor's name,
    shape and numbers against the layers of `base`. That the base is the right one, its weights and its
    tokenizer, is for the manifest to say.

    Raises:
        AdapterFormatError: with what was found and what is wanted.
    """
    from adapter_service.lora.folder import read_folder
    from adapter_service.lora.layer import install

    check_files(folder)
    _judge_config(folder)
    layers = install(base.model, keep=base.model.get_output_embeddings())
    _judge_header(folder, layers)
    read_folder(folder, layers)


def _judge_config(folder: Path) -> None:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFormatError(f"adapter_config.json cannot be read: {type(error).__name__}") from error
    if not isinstance(config, dict):
        raise AdapterFormatError("adapter_config.json is no object; save the adapter as PEFT does")
    if "auto_map" in config:
        raise AdapterFormatError("adapter_config.json asks for code of its own (auto_map), which is never run here")
    ranks, alphas = _patterns(config, "rank_pattern"), _patterns(config, "alpha_pattern")
    for rank in (config.get("r"), *ranks.values()):
        _judge_number("rank", rank, 1, MAX_RANK)
    for alpha in (config.get("lora_alpha"), *alphas.values()):
        _judge_number("alpha", alpha, -_MAX_ALPHA, _MAX_ALPHA)


def _patterns(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
        raise AdapterFormatError(f"{name} of adapter_config.json is no object of at most {_MAX_PATTERNS} entries")
    for pattern in patterns:
        if len(pattern) > _MAX_NAME or _may_take_for_ever(pattern):
            raise AdapterFormatError(
                f"{name} has {pattern[:80]!r}, which could take for ever to compare; write names of layers, or "
                "patterns with at most one group and two of * + ? {, none of them behind the group"
            )
    return patterns


def _may_take_for_ever(pattern: str) -> bool:
    many = pattern.count("(") > 1 or len(_QUANTIFIER.findall(pattern)) > 2
    return many or _REPEATED_GROUP.search(pattern) is not None


def _judge_number(what: str, found: Any, least: float, most: float) -> None:
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not least <= found <= most:
        raise AdapterFormatError(
            f"adapter_config.json has {what} {str(found)[:80]}; {least:g} to {most:g} is served: train it smaller"
        )


def _judge_header(folder: Path, layers: Mapping[str, LinearLayer]) -> None:
    """Names and number of the tensors: what is read next is bounded by the base's own layers."""
    from safetensors import SafetensorError, safe_open

    from adapter_service.lora.folder import WEIGHTS_FILE

    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise AdapterFormatError(f"{WEIGHTS_FILE} is no safetensors file: {error}") from error
    if len(names) > 2 * len(layers):
        raise AdapterFormatError(
            f"{WEIGHTS_FILE} has {len(names)} tensors, and the base {len(layers)} linear layers with two each"
        )
    if long := [name for name in names if len(name) > _MAX_NAME]:
        raise AdapterFormatError(f"{WEIGHTS_FILE} has a tensor called {long[0][:80]!r}…, which no layer is")
