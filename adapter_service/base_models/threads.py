"""On how many of the processor's threads products are computed: on all that the process may use, or one per core.

Two hardware threads of a core share its multipliers, and large products mostly lose by the second one; what
is so here is measured. What a container's CPU quota does not pay for is left out without measuring: a probe
is over before the kernel stops a process that has overdrawn.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

_TOPOLOGY = Path("/sys/devices/system/cpu")
_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_ROUNDS = 5
_LEAST_ROUNDS = 2
_SECONDS = 0.3
# Fewer threads leave room for others, so more have to be faster than measuring is uncertain.
_TIE = 1.03
_ROWS_FOR_ONE_THREAD = 4


@dataclass(frozen=True, slots=True)
class Threads:
    count: int
    reason: str


def choose_threads(wanted: int, speed: Callable[[int], float], counts: Mapping[int, str] | None = None) -> Threads:
    """`wanted`, or where that is 0 the fastest of `counts` (those of `usable_threads`).

    `speed` measures products on so many threads. Each count's best of some rounds is what counts for it: other
    work on the machine makes single ones slower, and none faster.
    """
    if wanted:
        return Threads(wanted, f"{_threads(wanted)}, set by model.threads")
    counts = usable_threads() if counts is None else counts
    if len(counts) == 1:
        count, words = next(iter(counts.items()))
        return Threads(count, f"{_threads(count)}, {words}")
    best = dict.fromkeys(counts, 0.0)
    started = time.monotonic()
    for number in range(_ROUNDS):
        if number >= _LEAST_ROUNDS and time.monotonic() - started > _SECONDS:
            break
        for count in counts:
            best[count] = max(best[count], speed(count))
    chosen = min(count for count in counts if best[count] * _TIE >= max(best.values()))
    figures = ", ".join(f"{_threads(count)} {best[count]:.0f} GFLOP/s" for count in sorted(counts))
    return Threads(chosen, f"{_threads(chosen)}, {counts[chosen]}, measured ({figures})")


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute products on so many threads inside, which costs a quarter of a microsecond.

    The number is the process's: only one thread of ours computes at a time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(rows: int) -> AbstractContextManager[None]:
    """One thread for the small products of few rows.

    A product of one row takes 145 µs on one thread and 175 on two: waking the second costs more than it does.
    """
    return on_threads(1) if rows <= _ROWS_FOR_ONE_THREAD else nullcontext()


def most_threads() -> int:
    """As many as the process may use."""
    return max(usable_threads())


def usable_threads() -> dict[int, str]:
    """The counts worth trying, and in words what each is; never more than the quota pays for."""
    allowed = os.sched_getaffinity(0)
    counts = {len(allowed): "one on every processor that this process may use"}
    cores = physical_cores(allowed)
    if cores < len(allowed):
        counts[cores] = "one on every core that this process may use"
    quota = cpu_quota()
    if quota is None or quota >= max(counts):
        return counts
    within = {count: words for count, words in counts.items() if count < quota}
    return within | {math.ceil(quota): f"as many as the CPU quota of {quota:g} pays for"}


def physical_cores(processors: set[int], topology: Path = _TOPOLOGY) -> int:
    """How many cores these are; a processor whose siblings are not told is a core of its own."""
    return len({_siblings(topology / f"cpu{number}" / "topology" / "thread_siblings_list") for number in processors})


def cpu_quota(groups: Path = _GROUPS, own_group: Path = _OWN_GROUP) -> float | None:
    """How many processors' time the kernel gives this process: the least of its group's and those above (cgroup v2)."""
    try:
        lines = own_group.read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    group = groups / own
    above = [place for place in (group, *group.parents) if place.is_relative_to(groups)]
    quotas = [quota for place in above if (quota := _quota(place / "cpu.max")) is not None]
    return min(quotas, default=None)


def _siblings(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return str(path)


def _quota(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such group, or its quota is "max"
        return None


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
