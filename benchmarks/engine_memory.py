"""Memory of one process that trains and serves, beside two that do one each, at the same time.

`python -m benchmarks.engine_memory BASE train,serve LOOPS KERNEL` is one of them: it loads the base, says so, and at a
line on stdin trains some steps, answers requests of eight adapters, or both at once. All load the same base in the same
way.

On a processor the base's weights are pages of its file, which the kernel keeps once for all processes that map them.
So there are two figures: resident memory, where each process has its base (as it is on a graphics card, or where
weights were converted while loading), and the proportional one, where a page that two share counts half in each.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from rich.console import Console

from adapter_service.measuring.provenance import Result
from adapter_service.settings import KernelSetting, load_settings
from benchmarks.engine_service import ServiceHere, service_here
from benchmarks.engine_training import train
from benchmarks.training import Base, Child
from benchmarks.training_rows import make_rows

MOST = 0.6
_ADAPTERS = 8
_TOKENS = 16
_STEPS = 4
_EVERY_SECONDS = 0.05


class Watched:
    """Looks at processes' memory until `peaks` is asked for; the two figures are in MiB, of all together."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = processes
        self._done = threading.Event()
        self._resident = self._proportional = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def peaks(self) -> tuple[float, float]:
        self._done.set()
        self._thread.join()
        return self._resident, self._proportional

    def _run(self) -> None:
        while not self._done.wait(_EVERY_SECONDS):
            seen = [_rollup(process) for process in self._processes]
            self._resident = max(self._resident, sum(resident for resident, _ in seen))
            self._proportional = max(self._proportional, sum(proportional for _, proportional in seen))


def _rollup(process: int) -> tuple[float, float]:
    """Resident and proportional MiB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB", text, re.MULTILINE))
    return int(found["Rss"]) / 1024, int(found["Pss"]) / 1024


def measure(
    base: Base, folder: Path, loops: int, console: Console, *, kernel: KernelSetting = "auto", most: float = MOST
) -> list[Result]:
    """With steps by `kernel`; `most` is the target."""
    folder.mkdir()
    two = _peaks(base, folder, ["train", "serve"], loops, kernel)
    one = _peaks(base, folder, ["train,serve"], loops, kernel)
    console.print(f"memory (resident, proportional): one process {one}, two {two} MiB", soft_wrap=True)
    return rows_of(one, two, kernel=kernel, most=most)


def rows_of(
    one: tuple[float, float], two: tuple[float, float], *, kernel: KernelSetting = "auto", most: float = MOST
) -> list[Result]:
    kinds = ("resident", "proportional, what both map counted once")
    by = "" if kernel == "auto" else f", steps by {kernel}"
    return [
        Result(
            f"peak memory of training and serving ({kind}{by})", ours, "MiB", "two processes, one each", theirs,
            ours / theirs, most, ours / theirs <= most,
        )
        for kind, ours, theirs in zip(kinds, one, two, strict=True)
    ]  # fmt: skip


def _peaks(base: Base, folder: Path, works: Sequence[str], loops: int, kernel: KernelSetting) -> tuple[float, float]:
    """Of processes that do `works`, from before they load until each has done its part."""
    with ExitStack() as running:
        children = []
        for work in works:
            command = [sys.executable, "-m", "benchmarks.engine_memory", base.name, work, str(loops), kernel]
            children.append(running.enter_context(Child.of(command, folder / f"{work}.log", {})))
        processes = [int(child.said()["process"]) for child in children]
        watched = Watched(processes)
        for child in children:
            child.said()  # it is ready
        for child in children:
            child.go_on()
        for child in children:
            child.said()
        return watched.peaks()


def main() -> None:
    base, work, loops, kernel = sys.argv[1:]
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _say(said, {"process": os.getpid()})
    with (
        tempfile.TemporaryDirectory(prefix="engine-memory-") as made,
        service_here(Path(made), base, adapters=_ADAPTERS, kernel=kernel) as here,
    ):
        _say(said, {})
        sys.stdin.readline()
        _work(here, work.split(","), int(loops))
        _say(said, {})
        sys.stdin.readline()  # until all are done: what one of them frees early is in no sum


def _work(here: ServiceHere, kinds: Sequence[str], loops: int) -> None:
    def serve() -> None:
        for _ in range(2):
            here.closed_loop(here.files, loops, _TOKENS)

    clients = threading.Thread(target=serve)
    if "serve" in kinds:
        clients.start()
    if "train" in kinds:
        train(here, make_rows(load_settings(), here.engine.base.tokenizer, 64, seed=0), _STEPS)
    if "serve" in kinds:
        clients.join()


def _say(said: TextIO, message: dict[str, int]) -> None:
    said.write(json.dumps(message) + "\n")
    said.flush()


if __name__ == "__main__":
    main()
