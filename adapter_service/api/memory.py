"""How much memory this process holds."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from adapter_service.api.schemas.health import MemoryAnswer

_LINE = re.compile(r"^(VmRSS|VmHWM):\s+(\d+) kB", re.MULTILINE)


def process_memory() -> MemoryAnswer:
    """From the kernel's own count, and from torch for a CUDA device if it is in use already."""
    status = Path("/proc/self/status")  # Linux alone has it
    kilobytes = dict(_LINE.findall(status.read_text())) if status.exists() else {}
    return MemoryAnswer(
        resident_mb=_megabytes(kilobytes.get("VmRSS")),
        peak_mb=_megabytes(kilobytes.get("VmHWM")),
        gpu_mb=_gpu_megabytes(),
    )


def _megabytes(kilobytes: str | None) -> float | None:
    return None if kilobytes is None else round(int(kilobytes) / 1024, 1)


def _gpu_megabytes() -> float | None:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)  # never the reason why torch is imported
    if cuda is None or not cuda.is_initialized():
        return None
    return round(float(cuda.memory_allocated()) / 2**20, 1)
