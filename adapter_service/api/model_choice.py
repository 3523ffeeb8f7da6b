"""Who answers: the base, or one version of an adapter, found once as a request comes in."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_service.adapter_names import BASE
from adapter_service.adapters import Version
from adapter_service.api.schemas.openai import SamplingFields
from adapter_service.api.services import Services
from adapter_service.api.token_limits import check_token_ids
from adapter_service.base_models.locating import public_name
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import ConflictError, InvalidParameterError, UnknownAdapterError


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """`version` is None for the base alone; else it answers with `scale` times its strength."""

    version: Version | None
    scale: float = 1.0

    @property
    def id(self) -> str:
        """What stands in the answer: a name that means the same for good."""
        return self.version.reference if self.version else BASE

    @property
    def files(self) -> AdapterFiles | None:
        return AdapterFiles.of(self.version) if self.version else None


def model_for(fields: SamplingFields, services: Services) -> ChosenModel:
    """Who answers a request under /v1, with what is checked beside it before its prompt is looked at.

    Raises:
        UnknownAdapterError: nobody of that name.
        InvalidParameterError: the base alone is to be scaled, or lacks a token id.
        ConflictError: the version is of another base.
    """
    version = choose_model(fields.model, services).version
    scale = chosen_scale(fields.lora_scale, version)
    check_base_of(version, services)
    biased = map(int, fields.logit_bias or ())
    check_token_ids({"stop_token_ids": fields.stop_token_ids or (), "logit_bias": biased}, services.engine.base)
    return ChosenModel(version, scale)


def choose_model(name: str, services: Services) -> ChosenModel:
    """What `name` means now: `base` or the base's own name, `adapter` (its live version) or `adapter@version`.

    Raises:
        UnknownAdapterError: none of them.
    """
    base = services.settings.model.base
    if name in {BASE, base}:
        return ChosenModel(None)
    try:
        return ChosenModel(services.versions.resolve(name))
    except UnknownAdapterError:
        if name != public_name(base):  # a folder may be called like an adapter, which goes first
            raise
        return ChosenModel(None)


def chosen_scale(asked: float | None, version: Version | None) -> float:
    """How many times its strength `version` answers with; once where nothing is asked.

    Raises:
        InvalidParameterError: the base alone is to be scaled, which is exactly the base and has nothing to scale.
    """
    if asked is None:
        return 1.0
    if version is None:
        raise InvalidParameterError(
            f"'lora_scale' is {asked}, but the base alone is asked; name an adapter or leave it out",
            parameter="lora_scale",
        )
    return asked


def check_base_of(version: Version | None, services: Services) -> None:
    """A version made for another base has other shapes, or fits and answers nonsense.

    Raises:
        ConflictError: it was.
    """
    base = services.engine.base
    if version is not None and version.base_id != base.identity:
        raise ConflictError(
            f"{version.reference} was trained on another base than the resident one ({base.public_name}); "
            "ask for another version, or train the adapter again"
        )
