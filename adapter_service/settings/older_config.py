"""What became of the older service's keys in adapter_config.yaml: a new key, or a sentence saying why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_service.settings.draft import Draft
from adapter_service.settings.faults import unknown_key
from adapter_service.settings.reading import Document, KeyPath
from adapter_service.settings.sections import SECTIONS


@dataclass(frozen=True)
class MovedTo:
    key: str


@dataclass(frozen=True)
class NoEffect:
    """`only`, where given, are the values that agree with what is done; another one is a fault."""

    why: str
    only: tuple[Any, ...] = ()


OLDER: dict[str, MovedTo | NoEffect] = {
    "model.base_model": MovedTo("model.base"),
    "model.model_type": NoEffect("the base's own configuration says its type"),
    "model.use_8bit": MovedTo("quantization.use_8bit"),
    "model.use_4bit": MovedTo("quantization.use_4bit"),
    "model.device_map": NoEffect("the base is on one device: 'model.device'"),
    "model.torch_dtype": NoEffect("the precision is chosen by a start-up probe, or by 'model.dtype'"),
    "lora.lora_alpha": MovedTo("lora.alpha"),
    "lora.lora_dropout": MovedTo("lora.dropout"),
    "lora.bias": NoEffect("biases are not trained", only=("none",)),
    "lora.task_type": NoEffect("every base is a causal language model", only=("CAUSAL_LM",)),
    "training.num_train_epochs": MovedTo("training.num_epochs"),
    "training.block_size": MovedTo("training.max_seq_length"),
    "training.output_dir": NoEffect("versions are kept below 'storage.state_dir'"),
    "training.logging_steps": NoEffect("every step is logged"),
    "training.save_total_limit": NoEffect("two checkpoints of a job are kept"),
    "training.fp16": NoEffect("the precision is chosen by a start-up probe, or by 'model.dtype'"),
    "training.bf16": NoEffect("the precision is chosen by a start-up probe, or by 'model.dtype'"),
    "training.gradient_checkpointing": NoEffect("'training.preset' decides it: small recomputes"),
    "training.dataloader_num_workers": NoEffect("one thread reads the stream"),
    "training.optim": NoEffect("the optimizer is AdamW on the adapter's float32 weights"),
    "data.streaming": NoEffect("sources are always streamed", only=(True,)),
    "data.max_eval_samples": MovedTo("gate.max_holdout_samples"),
    "data.block_size": MovedTo("training.max_seq_length"),
    "data.preprocessing_num_workers": NoEffect("one thread reads the stream"),
    "mcp.primary_source": MovedTo("data.source"),
    "mcp.fallback_source": MovedTo("data.fallback_source"),
    "mcp.config_path": NoEffect("the sources file is named by ADAPTER_SOURCES or on the command line"),
    "hardware": NoEffect("device, precision and memory are 'model', 'quantization' and 'training.token_budget'"),
    "evaluation": NoEffect("a trained adapter is measured as 'gate' says"),
    "checkpointing": NoEffect("'training.save_steps' says when checkpoints are written"),
    "logging": NoEffect("each job's log is kept below 'storage.state_dir'"),
    "status": NoEffect("it describes the older service"),
}
_OLDER_SECTIONS = {name.partition(".")[0] for name in OLDER}


def put_config(draft: Draft, document: Document) -> None:
    """Take over adapter_config.yaml, older keys by their new names; nothing is dropped in silence."""
    for name, content in document.values.items():
        place = document.place((name,))
        if isinstance(older := OLDER.get(name), NoEffect):
            draft.notes.append(f"{place}: older section '{name}' has no effect: {older.why}")
        elif name not in SECTIONS and name not in _OLDER_SECTIONS:
            draft.faults.append(f"{place}: {unknown_key((name,), SECTIONS)}")
        elif not isinstance(content, Mapping | None):
            draft.faults.append(f"{place}: '{name}' is {content!r}; write a mapping of keys below it")
        else:
            for key, value in (content or {}).items():
                _put_key(draft, document, (name, key), value)
    for path, line in document.lines.items():
        draft.places.setdefault(path, f"{document.name} line {line}")


def _put_key(draft: Draft, document: Document, path: KeyPath, value: Any) -> None:
    older = OLDER.get(".".join(path))
    if isinstance(older, MovedTo):
        _move(draft, document, path, older.key, value)
    elif isinstance(older, NoEffect):
        _leave(draft, document.place(path), path, older, value)
    elif path[0] not in SECTIONS:
        allowed = [key.partition(".")[2] for key in OLDER if key.startswith(f"{path[0]}.")]
        draft.faults.append(f"{document.place(path)}: {unknown_key(path, allowed)}")
    elif path == ("training", "max_steps") and value == -1:
        # The older trainer's way to say "no limit".
        draft.put(path, None, document.place(path))
    else:
        draft.put(path, value, document.place(path))


def _move(draft: Draft, document: Document, path: KeyPath, new_key: str, value: Any) -> None:
    place, old_key = document.place(path), ".".join(path)
    section, _, key = new_key.partition(".")
    if key in (document.values.get(section) or {}) or key in draft.values[section]:
        draft.faults.append(f"{place}: older key '{old_key}' and '{new_key}' are both given; keep '{new_key}'")
        return
    draft.notes.append(f"{place}: older key '{old_key}' is read as '{new_key}'")
    draft.put((section, key), value, place)


def _leave(draft: Draft, place: str, path: KeyPath, older: NoEffect, value: Any) -> None:
    if older.only and value not in older.only:
        allowed = " or ".join(map(repr, older.only))
        draft.faults.append(f"{place}: '{'.'.join(path)}' is {value!r}; only {allowed} is possible: {older.why}")
    else:
        draft.notes.append(f"{place}: older key '{'.'.join(path)}' has no effect: {older.why}")
