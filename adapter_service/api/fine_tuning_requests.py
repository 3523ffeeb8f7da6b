"""From what OpenAI's clients ask of fine-tuning to a request of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adapter_service.adapter_names import BASE, fault_of
from adapter_service.api.schemas.fine_tuning import FineTuningBody, Hyperparameters, JobListQuery
from adapter_service.errors import InvalidParameterError, UnknownAdapterError, UnknownFileError
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.jobs.training_file import is_file_id
from adapter_service.settings import Settings
from adapter_service.suggestions import did_you_mean

SOURCE = "source:"
_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def train_request(body: FineTuningBody, settings: Settings) -> TrainRequest:
    """The same request in our words; `auto` is what the settings say.

    Raises:
        InvalidParameterError: it asks for what there is not.
        UnknownFileError: `training_file` is no file's id, nor `source:<name>`.
    """
    if body.validation_file is not None:
        raise InvalidParameterError(
            "'validation_file' is given, and no second file is read: the gate holds samples of the training file out "
            "(gate.holdout_fraction) and judges by them; leave it out",
            parameter="validation_file",
        )
    begins_with_base = body.model in {BASE, settings.model.base}
    own_name = settings.serving.default_adapter if begins_with_base else body.model.partition("@")[0]
    if not begins_with_base and fault_of(own_name):
        raise UnknownAdapterError(
            f"unknown model {body.model!r}; {BASE!r} is the base, and GET /adapter/list has the adapters to go on from"
        )
    wanted = _hyperparameters(body)
    size = wanted.batch_size
    return TrainRequest(
        adapter=body.suffix or own_name,
        init_adapter=None if begins_with_base else body.model,
        source=_source(body.training_file),
        num_epochs=None if wanted.n_epochs == "auto" else wanted.n_epochs,
        per_device_train_batch_size=None if size == "auto" else size,
        gradient_accumulation_steps=None if size == "auto" else 1,
        learning_rate=_learning_rate(wanted, settings.training.learning_rate),
        seed=body.seed,
    )


def asked(body: FineTuningBody) -> Mapping[str, Any]:
    """What is kept with the job for answers alone."""
    factor = _hyperparameters(body).learning_rate_multiplier
    return {
        "model": body.model,
        "metadata": body.metadata,
        "learning_rate_multiplier": None if factor == "auto" else factor,
    }


def _hyperparameters(body: FineTuningBody) -> Hyperparameters:
    """Those of `method`, or of their older place."""
    newer = body.method.supervised.hyperparameters if body.method and body.method.supervised else None
    if newer is not None and body.hyperparameters is not None and newer != body.hyperparameters:
        raise InvalidParameterError(
            "'hyperparameters' and 'method.supervised.hyperparameters' differ, but both are the same; give them once",
            parameter="hyperparameters",
        )
    return newer or body.hyperparameters or Hyperparameters()


def _learning_rate(wanted: Hyperparameters, configured: float) -> float | None:
    factor = wanted.learning_rate_multiplier
    if factor == "auto":
        return None
    rate = configured * factor
    if rate > 1.0:
        raise InvalidParameterError(
            f"'learning_rate_multiplier' is {factor} and training.learning_rate {configured}, which makes {rate}; "
            "at most 1.0 is allowed: lower it",
            parameter="learning_rate_multiplier",
        )
    return rate


def _source(training_file: str) -> str:
    if is_file_id(training_file):
        return training_file
    if training_file.startswith(SOURCE) and len(training_file) > len(SOURCE):
        return training_file.removeprefix(SOURCE)
    raise UnknownFileError(
        f"'training_file' is {training_file[:100]!r}, which is no file's id; POST /v1/files sends a file and says its "
        f"id, and {SOURCE}<name> is a configured source (GET /sources)"
    )


def shown_file(source: str) -> str:
    """What `_source` was made of."""
    return source if is_file_id(source) else f"{SOURCE}{source}"


def wanted_metadata(query: JobListQuery) -> dict[str, str]:
    """The pairs that the query names, as `metadata[key]=value`.

    Raises:
        InvalidParameterError: the query has something else.
    """
    pairs: dict[str, str] = {}
    for name, value in (query.model_extra or {}).items():
        found = _METADATA.fullmatch(name)
        if found is None or not isinstance(value, str):
            known = ["after", "limit", "metadata"]
            raise InvalidParameterError(
                f"unknown field {name[:100]!r}{did_you_mean(name, known)} allowed: {', '.join(known)}, "
                "metadata[key], each once",
                parameter=name[:100],
            )
        pairs[found[1]] = value
    if pairs and query.metadata is not None:
        raise InvalidParameterError(
            "'metadata' is null and metadata[key] is given too; no job has both: leave one out", parameter="metadata"
        )
    return pairs
