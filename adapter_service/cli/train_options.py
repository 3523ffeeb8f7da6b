"""The trainer's options: every field of a training request, and what a request over HTTP cannot say.

An option has its field's name and type; two fields have the older trainer's names as well.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from adapter_service.jobs.train_request import OVERRIDES, TrainRequest
from adapter_service.settings import (
    ModelSettings,
    QuantizationSettings,
    Settings,
    load_settings,
    validate_section,
)

_NAMES = {
    "source": ("--streaming_source", "--source"),
    "max_train_samples": ("--max_train_samples", "--max-samples"),
}
_HELP = {
    "source": "a configured source, an https://, s3:// or hf: address, or a file",
    "max_train_samples": "samples to train on, at most",
    "languages": "tags or names of the languages to take, such as hi Tamil",
    "preset": "fast; small: half of the memory, a third more time; auto: fast where there is room",
    "max_steps": "optimizer steps, at most",
    "loraplus_lr_ratio": "matrices B learn at learning_rate times this (LoRA+)",
    "lr_scheduler_type": "cosine, linear or constant",
    "warmup_steps": "steps in which the learning rate rises",
    "max_seq_length": "tokens; longer samples are left out and counted",
    "token_budget": "padded tokens of a micro-step, at least max_seq_length",
    "save_steps": "steps between two checkpoints",
    "target_modules": "all-linear, or names of linear layers",
    "lora_layers": "all, or top-half of the decoder's layers",
    "use_rslora": "scale by alpha / sqrt(r) instead of alpha / r",
    "loss_vocabulary": "all, or sampled: the samples' tokens and some others by chance",
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_adapt.py",
        description="Stream text, train a LoRA adapter (PEFT format) and measure it against the base.",
        epilog="What is not given comes from the configuration file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_name_or_path", help="base: package:NAME, a folder, a .gguf file or a Hub id")
    add("--output_dir", type=Path, default=Path("adapter-out"), help="where the adapter goes (default: adapter-out)")
    for field, annotation in get_type_hints(TrainRequest).items():
        if field in OVERRIDES:
            names = _NAMES.get(field, (f"--{field}",))
            add(*names, dest=field, help=_HELP.get(field), **_reading(annotation))
    add("--use_8bit", help="hold the base in 8 bits", **_reading(bool))
    add("--use_4bit", help="hold the base in 4 bits (CUDA)", **_reading(bool))
    add("--config", type=Path, help="adapter_config.yaml to use")
    add("--sources", type=Path, help="mcp_connectors.yml to use")
    add("--resume", action="store_true", help="go on from the last checkpoint of --output_dir")
    add("--init_adapter", type=Path, help="begin with a copy of the adapter in this folder")
    return parser


def request_of(options: argparse.Namespace) -> TrainRequest:
    """What the options say of the training itself.

    Raises:
        SettingsError: a value that no request may have.
    """
    given = {field: value for field in OVERRIDES if (value := getattr(options, field)) is not None}
    if given.get("target_modules") == ["all-linear"]:
        given["target_modules"] = "all-linear"
    request = validate_section(TrainRequest, {"adapter": "command-line", **given}, where="options")
    folder = options.init_adapter
    return request if folder is None else request.model_copy(update={"init_adapter": str(folder)})


def settings_of(options: argparse.Namespace) -> Settings:
    """The configuration file's settings with the options for the base in their places.

    Raises:
        SettingsError: a file or an option is not as it must be.
    """
    settings = load_settings(options.config, options.sources, os.environ)
    changed: dict[str, Any] = {}
    if options.model_name_or_path is not None:  # the file's revision is of the file's base
        base = {"base": options.model_name_or_path, "revision": None}
        changed["model"] = validate_section(ModelSettings, settings.model.model_dump() | base, where="options, model")
    widths = {name: value for name in ("use_8bit", "use_4bit") if (value := getattr(options, name)) is not None}
    if widths:
        held = settings.quantization.model_dump() | widths
        changed["quantization"] = validate_section(QuantizationSettings, held, where="options, quantization")
    return settings.model_copy(update=changed)


def _reading(annotation: Any) -> dict[str, Any]:
    """How argparse reads an option of this type."""
    types = [kind for kind in get_args(annotation) if kind is not NoneType] or [annotation]
    if any(get_origin(kind) is list for kind in types):
        return {"nargs": "+"}
    if types == [bool]:
        return {"type": _truth, "nargs": "?", "const": True, "metavar": "True|False"}
    return {"type": types[0]}


def _truth(text: str) -> bool:
    if text.lower() in {"true", "yes", "1", "on"}:
        return True
    if text.lower() in {"false", "no", "0", "off"}:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
