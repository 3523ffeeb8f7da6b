"""The files of an adapter that was just trained: the same for a job's version and for the trainer's folder."""

from __future__ import annotations

from pathlib import Path

import yaml

from adapter_service.engine.engine import Engine
from adapter_service.jobs.learning import Trained
from adapter_service.jobs.streaming import Streamed
from adapter_service.settings import Settings


def write_adapter_files(
    folder: Path, trained: Trained, streamed: Streamed, settings: Settings, engine: Engine, name: str
) -> None:
    """Write weights, config, metadata, card and settings into `folder`, which is empty.

    Making that durable, and visible at once, is the caller's part.
    """
    from adapter_service.lora.folder import write_folder
    from adapter_service.training.card import metadata, write_card

    base = engine.base
    write_folder(trained.adapter, folder, base_name=base.name)
    described = metadata(
        name=name,
        source=streamed.source,
        base=base,
        lora=settings.lora,
        training=settings.training,
        loss=settings.loss,
        dataset=streamed.dataset,
        result=trained.result,
        template_id=engine.renderer.template_id,
    )
    write_card(folder, described)
    resolved = yaml.safe_dump(settings.masked(), allow_unicode=True)
    (folder / "resolved_config.yaml").write_text(resolved, encoding="utf-8")
