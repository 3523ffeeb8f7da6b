"""The resident base's tokenizer as files, for those who fetch an adapter and have the base's weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adapter_service.delivery.packing import TokenizerFiles
from adapter_service.engine.engine import Engine


def tokenizer_of(engine: Engine) -> TokenizerFiles:
    """For `Deliverer`; while the base loads it raises NotReadyError."""

    def write(folder: Path) -> Iterable[Path]:
        return [path for path in map(Path, engine.base.tokenizer.save_pretrained(folder)) if path.is_file()]

    return write
