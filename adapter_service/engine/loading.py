"""The base that the settings name, as the engine wants it: a function to call on its thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from adapter_service.settings import Settings

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

LoadBase = Callable[[Callable[[str], None]], "BaseModel"]


def base_loader(settings: Settings) -> LoadBase:
    """Loads by the `model` and `quantization` sections; torch is imported when it is called, not before."""

    def load(note: Callable[[str], None]) -> BaseModel:
        from adapter_service.model_utils import load_base

        return load_base(
            settings.model.base,
            bases_dir=settings.storage.state_dir / "bases",
            revision=settings.model.revision,
            tokenizer=settings.model.tokenizer,
            device=settings.model.device,
            dtype=settings.model.dtype,
            use_8bit=settings.quantization.use_8bit,
            use_4bit=settings.quantization.use_4bit,
            threads=settings.model.threads,
            note=note,
        )

    return load
