"""What a job's training begins with: an adapter that there is, or layers that the base has, and room for it.

The API asks the same before it accepts a request, as far as the base is loaded.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapter_service.adapters import Version
from adapter_service.engine.engine import Engine
from adapter_service.errors import InvalidParameterError
from adapter_service.jobs.learning import lora_config
from adapter_service.settings import Settings
from adapter_service.training.batching import TOKENS_PER_SAMPLE

if TYPE_CHECKING:
    from adapter_service.training.memory import Demand


def check_same_base(parent: Version, engine: Engine) -> None:
    """Raise InvalidParameterError for an adapter of another base than the resident one."""
    if parent.base_id != engine.base.identity:
        raise InvalidParameterError(
            f"{parent.reference} was trained on another base than {engine.base.public_name!r}; "
            "start from a version of this base, or without init_adapter",
            parameter="init_adapter",
        )


def trained_with(parent: Version) -> dict[str, Any]:
    """The `lora` section of the settings that it was trained with.

    Raises:
        InvalidParameterError: nothing is known of how it was trained.
    """
    try:
        described = json.loads((parent.path / "training_metadata.json").read_text(encoding="utf-8"))
        lora: dict[str, Any] = described["lora"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidParameterError(
            f"{parent.reference} has no training_metadata.json that says how it was trained; "
            "start from a version that was trained here, or without init_adapter",
            parameter="init_adapter",
        ) from error
    return lora


def check_targets(settings: Settings, engine: Engine) -> None:
    """Raise InvalidParameterError where `lora.target_modules` or `lora.layers` name what the base lacks."""
    from adapter_service.lora.adapter import select_layers

    select_layers(lora_config(settings), engine.layers)


def check_memory(settings: Settings, engine: Engine) -> None:
    """Raise DoesNotFitError for a job that this machine has not the memory for, with an estimate.

    While another job runs, what it holds is not free and will be: a job is then judged when it begins.
    """
    from adapter_service.training.memory import check_fits

    if not engine.working:
        check_fits(_demand(settings, engine))


def megabytes_needed(settings: Settings, engine: Engine) -> int:
    """The estimate of what training takes at most beside the base."""
    from adapter_service.training.memory import fit

    return fit(_demand(settings, engine)).needed_bytes >> 20


def _demand(settings: Settings, engine: Engine) -> Demand:
    """Before the samples are there: as long, and with as many different tokens, as they may be."""
    from adapter_service.training.memory import Demand, copied_head_rows

    longest = min(settings.training.max_seq_length, engine.base.context_tokens)
    tokens = settings.data.max_train_samples * TOKENS_PER_SAMPLE
    copied = copied_head_rows(engine.base, settings.loss, lambda: different_tokens(tokens))
    return Demand(engine.base, engine.layers, lora_config(settings), settings.training, longest, copied)


def different_tokens(tokens: int) -> int:
    """Heaps' law (Heaps 1978), fitted to the sample corpus: 10,200 of 64,000 tokens and 33,000 of 383,000."""
    different: float = 7.3 * tokens**0.655
    return round(different)
