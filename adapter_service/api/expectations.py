"""Fields that only say what a caller expects of this service: right, or refused with what is so."""

from __future__ import annotations

from pathlib import Path, PurePath

from adapter_service.base_models.locating import public_name
from adapter_service.errors import InvalidParameterError
from adapter_service.settings import ModelSettings, QuantizationSettings


def check_base(parameter: str, wanted: str | None, model: ModelSettings) -> None:
    """Nothing, or the resident base by the name that the settings give it, or that answers do."""
    known = public_name(model.base)
    if wanted is not None and wanted not in {model.base, known}:
        raise InvalidParameterError(
            f"'{parameter}' is {wanted[:200]!r}; the resident base is {known!r}, and no other is loaded "
            "for a request: leave the field out, or change model.base in the configuration and start again",
            parameter=parameter,
        )


def check_width(parameter: str, wanted: bool | None, quantization: QuantizationSettings) -> None:  # noqa: FBT001
    """`use_8bit` or `use_4bit` as the resident base is held."""
    found = getattr(quantization, parameter)
    if wanted is not None and wanted != found:
        raise InvalidParameterError(
            f"'{parameter}' is {wanted}; for the resident base quantization.{parameter} is {found}: "
            "leave the field out, or change the configuration and start again",
            parameter=parameter,
        )


def check_file(parameter: str, wanted: str | None, in_use: Path | None) -> None:
    """The file in use by its name or its path; it is compared as text and never opened."""
    if wanted is None or (in_use is not None and PurePath(wanted) in {PurePath(in_use.name), in_use}):
        return
    found = f"the file in use is {in_use.name!r}" if in_use else "no file is in use, the built-in settings hold"
    raise InvalidParameterError(
        f"'{parameter}' is {wanted[:200]!r}; {found}, and none is opened for a request: leave the field out, "
        "or start the service with that file",
        parameter=parameter,
    )
