"""What a job's training begins with: an adapter that there is, or layers that the base has.

The API asks the same before it accepts a request, as far as the base is loaded.
"""

from __future__ import annotations

import json
from typing import Any

from adapter_service.adapters import Version
from adapter_service.engine.engine import Engine
from adapter_service.errors import InvalidParameterError
from adapter_service.jobs.learning import lora_config
from adapter_service.settings import Settings


def check_same_base(parent: Version, engine: Engine) -> None:
    """Raise InvalidParameterError for an adapter of another base than the resident one."""
    if parent.base_id != engine.base.identity:
        raise InvalidParameterError(
            f"{parent.reference} was trained on another base than {engine.base.name!r}; "
            "start from a version of this base, or without init_adapter",
            parameter="init_adapter",
        )


def trained_with(parent: Version) -> dict[str, Any]:
    """The `lora` section of the settings that it was trained with.

    Raises:
        InvalidParameterError: nothing is known of how it was trained.
    """
    try:
        lora: dict[str, Any] = json.loads((parent.path / "training_metadata.json").read_text())["lora"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidParameterError(
            f"{parent.reference} has no training_metadata.json that says how it was trained; "
            "start from a version that was trained here, or without init_adapter",
            parameter="init_adapter",
        ) from error
    return lora


def check_targets(settings: Settings, engine: Engine) -> None:
    """Raise InvalidParameterError where `lora.target_modules` names a layer that the base lacks."""
    from adapter_service.lora.adapter import select_layers

    select_layers(lora_config(settings), engine.layers)
