"""How steps are made: chosen when the base is loaded, for its weights and for the memory that there is.

as_loaded    compiled, over the base's own weights: no memory more
float16      compiled, over a copy in float16 of a float32 base: half the bytes to read, and all but the same numbers
int8         compiled, over a copy in 8 bits: fewer still, and answers change a little; only where it is asked for
modules      transformers' own: any architecture, any device
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from adapter_service.base_models.free_memory import free_bytes
from adapter_service.errors import BaseModelError
from adapter_service.settings import KernelSetting

if TYPE_CHECKING:
    from adapter_service.decoding.decoder import Decoder
    from adapter_service.decoding.weights import Packing
    from adapter_service.model_utils import BaseModel

KernelName = Literal["as_loaded", "float16", "int8", "modules"]
# A copy may take so much of what is free: training wants the rest.
_PART_OF_FREE_MEMORY = 0.25


@dataclass(frozen=True, slots=True)
class Kernel:
    """Which one, and why; `decoder` is None where steps go through transformers' modules."""

    name: KernelName
    reason: str
    decoder: Decoder | None = None
    step_seconds: float | None = None
    """Of a step of one row; None where nobody has measured."""

    @property
    def gigabytes_per_second(self) -> float | None:
        """How fast one row's steps read weights."""
        if self.decoder is None or self.step_seconds is None:
            return None
        return round(self.decoder.bytes_of_a_step / self.step_seconds / 1e9, 1)

    @property
    def weights(self) -> str:
        """What steps read, in torch's words."""
        return "the base's own" if self.decoder is None else " and ".join(self.decoder.weight_kinds)

    @property
    def words(self) -> str:
        """For people."""
        if self.decoder is None:
            return f"transformers' modules ({self.reason})"
        speed = "" if self.gigabytes_per_second is None else f" at {self.gigabytes_per_second} GB/s"
        return f"compiled, {self.weights} weights{speed} ({self.name}: {self.reason})"


def choose_kernel(base: BaseModel, setting: KernelSetting) -> Kernel:
    """What the setting names; for "auto" the fastest that changes no answers and fits.

    Raises:
        BaseModelError: steps of this base cannot be made by the one that is named.
    """
    if setting == "modules":
        return Kernel("modules", "set by serving.kernel")
    packing, reason = _packing(base) if setting == "auto" else (setting, "set by serving.kernel")
    try:
        return Kernel(packing, reason, _decoder(base, packing))
    except (ValueError, ImportError) as error:
        fault = error
    if setting == "auto":
        return Kernel("modules", str(fault))
    raise BaseModelError(
        f"serving.kernel is {setting!r}, and steps of {base.public_name!r} cannot be compiled: {fault}; use 'auto'"
    )


def _packing(base: BaseModel) -> tuple[Packing, str]:
    """For "auto"."""
    if base.precision.dtype is not torch.float32:
        return "as_loaded", "its weights have few enough bits"
    parameters = base.weight_bytes // torch.float32.itemsize
    needed, free = parameters * torch.float16.itemsize, free_bytes(base.device)
    if needed > _PART_OF_FREE_MEMORY * free:
        return "as_loaded", f"a copy in float16 would take {needed >> 20} MB of {free >> 20} MB that are free"
    return "float16", f"half the bytes of float32; {needed >> 20} MB of {free >> 20} MB that are free"


def _decoder(base: BaseModel, packing: Packing) -> Decoder:
    from adapter_service.decoding.decoder import Decoder
    from adapter_service.decoding.families import architecture_of

    return Decoder(architecture_of(base.model), packing)
