"""More adapters in flight than slots, and far more registered than in memory: is there a cliff?

In a closed loop every client asks again as soon as it is answered. Sixteen clients on eight slots and eight places in
the batch use sixteen adapters, one each, or eight, two clients each: so both wait alike for places, and what differs
is that adapters come and go.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from adapter_service.measuring.provenance import Result
from benchmarks.engine_service import RANK, ServiceHere
from benchmarks.engine_size import Size
from benchmarks.engine_training import p95
from benchmarks.training import Base, Child

CLIENTS, SLOTS = 16, 8
MOST_WAIT, FLAT = 3.0, 1.1
_TOKENS = 16
_LOADS = "adapter_service_adapter_loads_total"


def measure(here: ServiceHere, size: Size, console: Console) -> list[Result]:
    first: dict[int, list[float]] = {CLIENTS: [], SLOTS: []}
    slowest: dict[int, list[float]] = {CLIENTS: [], SLOTS: []}
    loads: list[float] = []
    for number in range(size.rounds):
        for adapters in sorted(first, reverse=number % 2 == 0):
            clients = [here.files[place % adapters] for place in range(CLIENTS)]
            here.closed_loop(clients, 1, _TOKENS)  # so that what the round before left in memory is gone
            here.measured.forget()
            before = here.counted(_LOADS)
            here.closed_loop(clients, size.loops, _TOKENS)
            first[adapters].append(median(here.measured.first_tokens) * 1000)
            slowest[adapters].append(p95(here.measured.first_tokens) * 1000)
            if adapters == CLIENTS:
                loads.append(here.counted(_LOADS) - before)
    console.print(f"{CLIENTS} adapters on {SLOTS} slots: {first}, adapters loaded {loads}", soft_wrap=True)
    return slot_rows(first, slowest, loads, size)


def slot_rows(
    first: Mapping[int, Sequence[float]], slowest: Mapping[int, Sequence[float]], loads: Sequence[float], size: Size
) -> list[Result]:
    ratio = median(more / fewer for more, fewer in zip(first[CLIENTS], first[SLOTS], strict=True))
    measure = f"{CLIENTS} adapters on {SLOTS} slots, {CLIENTS} clients in a closed loop: "
    requests = CLIENTS * size.loops
    return [
        Result(
            f"{measure}median first token", median(first[CLIENTS]), f"ms, median of {len(loads)} rounds",
            f"{SLOTS} adapters on {SLOTS} slots, {CLIENTS} clients", median(first[SLOTS]), ratio,
            MOST_WAIT, ratio <= MOST_WAIT,
        ),
        # Whose adapter is in memory passes whose is not, up to a bound: the median alone does not show those.
        Result(f"{measure}first token, p95", median(slowest[CLIENTS]), f"ms, median of {len(loads)} rounds"),
        Result(f"{measure}first token, p95, of {SLOTS} adapters", median(slowest[SLOTS]), "ms"),
        Result(f"{measure}adapters of rank {RANK} loaded", median(loads), f"for {requests} requests"),
    ]  # fmt: skip


def measure_registered(base: Base, folder: Path, size: Size, console: Console) -> list[Result]:
    """In a process of its own, whose memory nothing else has had."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.engine_registered", base.name, str(folder), str(size.registered)]
    command += [str(size.rounds), str(size.loops)]
    with Child.of(command, folder / "registered.log", {}) as child:
        found = child.said()
    console.print(f"registered: {found}", soft_wrap=True)
    return registered_rows(found, size.registered)


def registered_rows(found: Mapping[str, Mapping[str, Sequence[float]]], registered: int) -> list[Result]:
    """`found` has, for few and many registered versions, what each round took."""
    many, few = found["many"], found["few"]
    measure, peer = f"{registered:,} registered adapters, 32 resident: ", "1 registered"
    rows = []
    for name, key, unit, is_least in (
        ("speed of 8 clients", "tokens_per_second", "tokens/s", True),
        ("first token of a request by itself", "first_token_ms", "ms", False),
        ("memory beside the resident adapters' own", "memory_mb", "MiB", False),
    ):
        ratio = median(ours / theirs for ours, theirs in zip(many[key], few[key], strict=True))
        target = 0.9 if is_least else FLAT
        rows.append(
            Result(
                f"{measure}{name}", median(many[key]), unit, peer, median(few[key]), ratio,
                target, ratio >= target if is_least else ratio <= target,
            )
        )  # fmt: skip
    resident = median(many["resident_mb"])
    rows.append(
        Result(f"{measure}memory of the adapters themselves", resident, "MiB", peer, median(few["resident_mb"]))
    )
    return rows
