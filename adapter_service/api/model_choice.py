"""Who answers: the base, or one version of an adapter, found once as a request comes in."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_service.adapter_names import BASE
from adapter_service.adapters import Version
from adapter_service.api.services import Services
from adapter_service.base_models.locating import public_name
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import ConflictError, UnknownAdapterError


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """`version` is None for the base alone."""

    version: Version | None

    @property
    def id(self) -> str:
        """What stands in the answer: a name that means the same for good."""
        return self.version.reference if self.version else BASE

    @property
    def files(self) -> AdapterFiles | None:
        return AdapterFiles.of(self.version) if self.version else None


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
