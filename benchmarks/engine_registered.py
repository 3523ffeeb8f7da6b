"""One registered adapter, then many: `python -m benchmarks.engine_registered BASE FOLDER MANY ROUNDS LOOPS`.

Every version has its folder and its row, and each request asks the store for its adapter by name, as routes do. The
folders' weights are hard links to those of the first 32: they are told apart by key, not by content. Requests go to
the 32 that are in memory, or to the one that there is.

The one is in a store of its own, so that both can be measured in turns. Memory is the process's resident memory
without what the adapters in memory take by themselves; it is looked at once with the one alone, then with all.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil

from adapter_service.adapters import Version, VersionStore
from adapter_service.database import Database
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.turn import Turn
from benchmarks.engine_service import ServiceHere, checked, publish, service_here

RESIDENT = 32
_CLIENTS = 8
_TOKENS = 16


class Registered:
    """A store of few or many versions; `names` are those that are asked for."""

    def __init__(self, here: ServiceHere, versions: VersionStore, names: list[str], loops: int) -> None:
        self._here = here
        self._versions = versions
        self._names = names
        self._loops = loops
        for number in range(len(names)):
            self._one(number, 1)
        # One adapter at two strengths is copied row by row, as different ones are: the room for that is there in both.
        here.together([replace(self._ask(number), scale=1.0 - number % 2 / 2) for number in range(_CLIENTS)])
        self.tokens_per_second()
        self.memory_mb, self.resident_mb = self._memory()

    def first_token(self) -> float:
        """Milliseconds of the median one."""
        self._here.measured.forget()
        for number in range(_CLIENTS * self._loops):
            self._one(number, 1)
        return median(self._here.measured.first_tokens) * 1000

    def tokens_per_second(self) -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            for done in [pool.submit(self._client, place) for place in range(_CLIENTS)]:
                done.result()
        return _CLIENTS * self._loops * _TOKENS / (time.perf_counter() - started)

    def _memory(self) -> tuple[float, float]:
        """Without and of the adapters in memory."""
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        resident = self._here.counted("adapter_service_resident_adapter_bytes") / 2**20
        return psutil.Process().memory_info().rss / 2**20 - resident, resident

    def _client(self, place: int) -> None:
        for number in range(self._loops):
            self._one(place * 5 + number, _TOKENS)

    def _one(self, number: int, tokens: int) -> None:
        checked(self._here.engine.submit(self._ask(number, tokens)).result())

    def _ask(self, number: int, tokens: int = 2) -> Ask:
        version = self._versions.resolve(self._names[number % len(self._names)])
        return self._here.ask(number, AdapterFiles.of(version), tokens)


def measured(base: str, folder: Path, count: int, rounds: int, loops: int) -> dict[str, dict[str, list[float]]]:
    """For few and many registered versions, what each round took; of memory there is one figure."""
    with service_here(folder, base, adapters=0, max_adapters=RESIDENT, max_adapter_bytes=2**32) as here:
        few_folder = folder / "few"
        few_folder.mkdir()
        apart = VersionStore(Database(few_folder / "service.db"), few_folder / "adapters")
        one = here.engine.run(lambda turn: publish(turn, apart, few_folder, count))
        sides = {"few": Registered(here, apart, [one.adapter], loops)}
        versions = _register(here, folder, count)
        names = [version.adapter for version in versions[:RESIDENT]]
        sides["many"] = Registered(here, here.services.versions, names, loops)
        found: dict[str, dict[str, list[float]]] = {
            name: {
                "memory_mb": [side.memory_mb], "resident_mb": [side.resident_mb],
                "tokens_per_second": [], "first_token_ms": [],
            }
            for name, side in sides.items()
        }  # fmt: skip
        for number in range(rounds):
            for name in sorted(sides, reverse=number % 2 == 0):
                found[name]["tokens_per_second"].append(sides[name].tokens_per_second())
                found[name]["first_token_ms"].append(sides[name].first_token())
        return found


def _register(here: ServiceHere, folder: Path, count: int) -> list[Version]:
    store = here.services.versions

    def make(turn: Turn) -> list[Version]:
        made = [publish(turn, store, folder, seed) for seed in range(min(RESIDENT, count))]
        linked = (
            publish(turn, store, folder, seed, weights=made[seed % RESIDENT].path) for seed in range(len(made), count)
        )
        return [*made, *linked]

    return here.engine.run(make)


def main() -> None:
    base, folder, count, rounds, loops = sys.argv[1:]
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = measured(base, Path(folder), int(count), int(rounds), int(loops))
    said.write(json.dumps(found) + "\n")
    said.flush()


if __name__ == "__main__":
    main()
