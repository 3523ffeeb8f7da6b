"""In which precision the base is held and multiplied, on how many threads, and why.

On CUDA bfloat16 (float32 on cards without it), 8 or 4 bits through bitsandbytes. On CPU the type
that this processor multiplies faster, measured: bfloat16 wins by 2 to 7 times where there are
AVX512_BF16 or AMX instructions and loses where it is emulated. How many threads: `base_models.threads`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from adapter_service.base_models.threads import choose_threads, most_threads, on_threads
from adapter_service.errors import BaseModelError

Quantization = Literal["none", "int8", "bnb-int8", "bnb-nf4"]
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Shape = tuple[int, int, int]  # rows, inner, outer
# One layer at a usual micro-batch.
_PROBE: tuple[Shape, ...] = ((512, 1024, 3072),)
# They differ by 5 %, and which of them is the fastest differs with the type and the processor.
PEAK_SHAPES: tuple[Shape, ...] = (*_PROBE, (512, 2048, 2048), (512, 2048, 640))


@dataclass(frozen=True, slots=True)
class Precision:
    """`threads` are the processor's; `reason` says why this type, and on a CPU why so many threads."""

    device: str
    dtype: torch.dtype
    quantization: Quantization
    threads: int
    reason: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self) | {"dtype": str(self.dtype).removeprefix("torch."), "threads": str(self.threads)}


def choose_precision(
    *, device: str = "auto", dtype: str = "auto", use_8bit: bool = False, use_4bit: bool = False, threads: int = 0
) -> Precision:
    """Decide by what was asked and what the machine does well; `threads` = 0 asks for the fastest count.

    Raises:
        BaseModelError: both quantizations, CUDA without a device, or 4 bits on a CPU.
    """
    if use_8bit and use_4bit:
        raise BaseModelError("use_8bit and use_4bit are both set; choose one")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BaseModelError("model.device is 'cuda' but no CUDA device is visible; use 'auto' or 'cpu'")
    if device == "cpu" and use_4bit:
        raise BaseModelError("4-bit bases need CUDA, and this machine has none; use_8bit works on a CPU")
    with on_threads(threads or most_threads()):
        chosen, reason = _dtype(device, dtype)
    quantization: Quantization = "none"
    if use_8bit:
        quantization = "bnb-int8" if device == "cuda" else "int8"
    elif use_4bit:
        quantization = "bnb-nf4"
    if device == "cuda":
        return Precision(device, chosen, quantization, threads or most_threads(), reason)
    number = choose_threads(threads, lambda count: _gflops_on(count, chosen))
    return Precision(device, chosen, quantization, number.count, f"{reason}; {number.reason}")


def _dtype(device: str, wanted: str) -> tuple[torch.dtype, str]:
    if wanted != "auto":
        return _DTYPES[wanted], "set by model.dtype"
    if device == "cuda":
        if torch.cuda.is_bf16_supported():
            return torch.bfloat16, "the CUDA device multiplies bfloat16"
        return torch.float32, "the CUDA device has no bfloat16, and float16 loses small gradients"
    speeds = {name: gemm_gflops(_DTYPES[name], shapes=_PROBE) for name in ("bfloat16", "float32")}
    faster = max(speeds, key=lambda name: speeds[name])
    figures = ", ".join(f"{name} {speed:.0f} GFLOP/s" for name, speed in speeds.items())
    return _DTYPES[faster], f"{faster} multiplies faster here ({figures})"


def gemm_gflops(dtype: torch.dtype, repeats: int = 5, shapes: Sequence[Shape] = PEAK_SHAPES) -> float:
    """Floating-point operations per nanosecond of a matrix product, on the threads that torch uses now.

    The best of `repeats` and of `shapes`: this machine's peak, to hold a whole model's speed against.
    """
    return max(_gflops(dtype, shape, repeats) for shape in shapes)


def _gflops(dtype: torch.dtype, shape: Shape, repeats: int) -> float:
    rows, inner, outer = shape
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(outer, inner, dtype=dtype)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats + 1):  # the first one prepares the kernel
            started = time.perf_counter()
            torch.nn.functional.linear(left, right)
            best = min(best, time.perf_counter() - started)
    return 2.0 * rows * inner * outer / best / 1e9


def _gflops_on(threads: int, dtype: torch.dtype) -> float:
    with on_threads(threads):
        return gemm_gflops(dtype, repeats=1, shapes=_PROBE)
