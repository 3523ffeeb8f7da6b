"""How steps are made and prompts are read: which ways there are for a base, and which of them memory allows.

as_loaded    compiled, over the base's own weights: no memory more
float16      compiled, over a float16 copy of a float32 base: half the bytes to read, and nearly the same numbers
int8         compiled, over a copy in 8 bits: fewer still, and answers change a little; only where it is asked for
modules      transformers' own: any architecture, any device
graphs       those, as CUDA graphs: a step is launched as a whole

Prompts go through the modules, or compiled, unless that is clearly slower.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from adapter_service.base_models.free_memory import free_bytes
from adapter_service.engine.recording import Recordings, recordings_on
from adapter_service.settings import KernelName

if TYPE_CHECKING:
    from adapter_service.decoding.decoder import Decoder
    from adapter_service.model_utils import BaseModel

log = logging.getLogger(__name__)

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
    reads_prompts: bool = False
    """Whether `decoder` reads prompts, too."""
    recordings: Recordings | None = None
    """How steps of the modules are recorded; None where they are not."""

    @property
    def prompts_by(self) -> Decoder | None:
        """What reads prompts; None where those go through the modules."""
        return self.decoder if self.reads_prompts else None

    def adapter_dtype(self, base: BaseModel) -> torch.dtype:
        """The type that adapters are kept in: that which a decoder reads, where it reads all prompts, too."""
        by = self.prompts_by
        return base.adapter_dtype if by is None or by.rounds_prompts else by.adapter_dtype

    @property
    def reason_now(self) -> str:
        """With what has happened since it was chosen."""
        fault = None if self.recordings is None else self.recordings.fault
        return self.reason if fault is None else f"{self.reason}; no more are recorded, for {fault}"

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
            recorded = "" if self.recordings is None else " as CUDA graphs"
            return f"transformers' modules{recorded} ({self.reason_now})"
        speed = "" if self.gigabytes_per_second is None else f" at {self.gigabytes_per_second} GB/s"
        return f"compiled, {self.weights} weights{speed} ({self.name}: {self.reason})"


@dataclass(frozen=True, slots=True)
class NoKernel:
    """One that cannot be had, and why."""

    name: KernelName
    reason: str


def kernels_to_try(base: BaseModel) -> list[tuple[KernelName, str]]:
    """Those for "auto" beside the modules, what should be the fastest first, each with the reason for it."""
    if recordings_on(base.device) is not None:
        return [("graphs", "a step is launched as a whole")]
    as_loaded: tuple[KernelName, str] = ("as_loaded", "nothing is copied, and nothing rounded")
    if not (needed := _bytes_in_float16(base)):
        return [as_loaded]
    free = free_bytes(base.device)
    if needed > _PART_OF_FREE_MEMORY * free:
        return [("as_loaded", f"a copy in float16 would take {needed >> 20} MB of {free >> 20} MB that are free")]
    return [("float16", f"half the bytes of float32; it takes {needed >> 20} MB"), as_loaded]


def make_kernel(base: BaseModel, name: KernelName, reason: str = "set by serving.kernel") -> Kernel | NoKernel:
    """The one of that name, compiled if it is not yet."""
    if name == "modules":
        return Kernel(name, reason)
    if name == "graphs":
        return _recorded(base, reason)
    try:
        from adapter_service.decoding.decoder import Decoder
        from adapter_service.decoding.families import NotComputedError, architecture_of

        return Kernel(name, reason, Decoder(architecture_of(base.model), name), reads_prompts=True)
    except NotComputedError as error:
        return NoKernel(name, str(error))
    except Exception as error:
        log.warning("steps cannot be compiled", exc_info=True, extra={"action": "compiling_failed"})
        return NoKernel(name, f"steps cannot be compiled: {error}")


def _recorded(base: BaseModel, reason: str) -> Kernel | NoKernel:
    recordings = recordings_on(base.device)
    if recordings is None:
        return NoKernel("graphs", f"they are CUDA's, and the base is on {base.device}")
    return Kernel("graphs", reason, recordings=recordings)


def _bytes_in_float16(base: BaseModel) -> int:
    """Of what is in float32."""
    linears = [module for module in base.model.modules() if type(module) is torch.nn.Linear]
    weights = {linear.weight.data_ptr(): linear.weight for linear in linears}
    numbers = sum(weight.numel() for weight in weights.values() if weight.dtype is torch.float32)
    return numbers * torch.float16.itemsize
