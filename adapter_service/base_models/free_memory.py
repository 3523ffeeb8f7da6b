"""How much memory can be had now."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

# A group's limit and use, where the process is held to less than the machine has (a container).
_GROUP_LIMIT, _GROUP_USE = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_GROUP_DETAILS = Path("/sys/fs/cgroup/memory.stat")


def free_bytes(device: torch.device) -> int:
    """What can be had now on a device."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    available = int(psutil.virtual_memory().available)
    return available if (left := _left_in_group()) is None else min(available, left)


def _left_in_group() -> int | None:
    """What the group may still take; files that it has read and that can be let go count as free."""
    try:
        used = int(_GROUP_USE.read_text()) - _let_go(_GROUP_DETAILS.read_text())
        return int(_GROUP_LIMIT.read_text()) - used
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None


def _let_go(details: str) -> int:
    return next((int(line.split()[1]) for line in details.splitlines() if line.startswith("inactive_file ")), 0)
