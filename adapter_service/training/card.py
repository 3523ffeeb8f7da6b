"""What lies beside an adapter's weights for people and programs: metadata and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapter_service.model_utils import BaseModel
from adapter_service.settings import LoraSettings, LossSettings, TrainingSettings
from adapter_service.settings.sections import loss_name
from adapter_service.training.dataset import Dataset
from adapter_service.training.progress import TrainingResult


def metadata(
    *,
    name: str,
    source: str,
    base: BaseModel,
    lora: LoraSettings,
    training: TrainingSettings,
    loss: LossSettings,
    dataset: Dataset,
    result: TrainingResult,
    template_id: str,
) -> dict[str, Any]:
    """Everything a program may ask of a trained adapter; the first nine keys are the older trainer's."""
    return {
        "base_model": base.name,
        "training_data": source,
        "epochs": training.num_epochs,
        "batch_size": training.per_device_train_batch_size,
        "learning_rate": training.learning_rate,
        "lora_r": lora.r,
        "lora_alpha": lora.alpha,
        "num_examples": len(dataset.train),
        "adapter_type": name,
        "base_identity": base.identity,
        "samples_seen": result.samples,  # epochs counted
        "precision": base.precision.to_dict(),
        "template_id": template_id,
        "samples_sha256": dataset.samples_hash,
        "held_out": len(dataset.holdout),
        "lora": lora.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "loss": loss.model_dump(mode="json"),
        "result": asdict(result),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_card(folder: Path, described: Mapping[str, Any]) -> None:
    """Write `training_metadata.json` and `README.md` into `folder`."""
    as_json = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    result = described["result"]
    told = {"loss_name": loss_name(result["loss_vocabulary"])}
    card = _CARD.format_map({**described, **result, **described["training"], **told})
    (folder / "training_metadata.json").write_text(as_json, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


_CARD = """\
---
library_name: peft
base_model: {base_model}
tags: [lora]
---

# {adapter_type}

A LoRA adapter (PEFT format) for `{base_model}`.

| | |
|---|---|
| trained on | {training_data}: {num_examples} samples |
| seen in all | {samples_seen} samples in {num_epochs} epochs: {tokens} tokens, {completion_tokens} of them learned |
| held out | {held_out} samples, chosen by hash, never trained on |
| rank, alpha | {lora_r}, {lora_alpha}; rank-stabilized: {lora[use_rslora]} |
| decoder layers | {lora[layers]} |
| steps | {steps}, of {per_device_train_batch_size} × {gradient_accumulation_steps} sequences |
| learning rate | {learning_rate}, {lr_scheduler_type}; matrices B: times {loraplus_lr_ratio} |
| {loss_name} per token | {first_loss:.3f} at the first step, {last_loss:.3f} at the last |
| time | {seconds:.0f} s |

What it is good for is for its trainer to say: beyond the held-out loss, nothing was measured when
this card was written. The base model's licence applies to its use.
"""
