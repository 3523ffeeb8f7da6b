"""The engine: many adapters in one batch, training beside it, and what they cost, on Gemma 3 and SmolLM2.

One service in this process is asked directly and over HTTP; what has to have a process for itself (PEFT, memory) has
one. Where two things are held against each other they take turns, and the target is on the median of the rounds' own
ratios. `BENCH=quick` only shows that it runs, and keeps what it finds in `.state`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from adapter_service.measuring.provenance import Result, write_results
from adapter_service.settings import load_settings
from benchmarks import (
    engine_batches,
    engine_first_token,
    engine_http,
    engine_memory,
    engine_slots,
    engine_training,
)
from benchmarks.engine_service import service_here
from benchmarks.engine_size import SIZES, Size
from benchmarks.training import BASES, Base

RESULTS = Path("benchmarks/results")
# More than there are slots, twice over.
_ADAPTERS = 18


def run(*, size: str, console: Console | None = None, names: Sequence[str] = tuple(BASES)) -> None:
    """Measure on one base after the other, and write the results of each."""
    console = console or Console()
    results = RESULTS if size != "quick" else load_settings().storage.state_dir / "benchmarks"
    results.mkdir(parents=True, exist_ok=True)
    for name in names:
        rows = [_of_base(BASES[name], row) for row in measure(BASES[name], SIZES[size], console)]
        write_results(results / f"engine_{name}.json", rows)
        for row in rows:
            console.print(line_of(row), markup=False, soft_wrap=True)


def measure(base: Base, size: Size, console: Console) -> Iterator[Result]:
    base_folder = folder_of(base)
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as made:
        folder = Path(made)
        (folder / "state").mkdir()
        started = time.monotonic()
        with service_here(folder / "state", base.name, adapters=_ADAPTERS) as here:
            console.print(f"{base.title}: {here.engine.note}, {_since(started)}", markup=False, soft_wrap=True)
            yield from engine_batches.measure(here, folder / "peft", base_folder, size, console)
            console.print(f"batches: {_since(started)}")
            yield from engine_first_token.measure(here, size, console)
            yield from engine_http.measure(here, size, console)
            console.print(f"single requests: {_since(started)}")
            yield from engine_slots.measure(here, size, console)
            console.print(f"slots: {_since(started)}")
            yield from engine_training.measure(here, size, console)
            console.print(f"training: {_since(started)}")
        yield from engine_slots.measure_registered(base, folder / "registered", size, console)
        console.print(f"registered: {_since(started)}")
        yield from engine_memory.measure(base, folder / "memory", size.loops, console)
        console.print(f"memory: {_since(started)}")


def folder_of(base: Base) -> Path:
    """Where transformers finds it."""
    from adapter_service.base_models.importing import import_gguf
    from adapter_service.base_models.locating import locate

    bases_dir = load_settings().storage.state_dir.absolute() / "bases"
    bases_dir.mkdir(parents=True, exist_ok=True)
    return import_gguf(locate(base.name).parts, bases_dir, lambda _: None)


def _of_base(base: Base, row: Result) -> Result:
    return replace(row, measure=f"{base.title}: {row.measure}")


def line_of(row: Result) -> str:
    beside = "" if row.ratio is None else f", {row.ratio:.2f} x of {row.peer} ({row.peer_figure:.4g})"
    judged = "" if row.met is None else f"; target {row.target:g} {'met' if row.met else 'missed'}"
    return f"{row.measure}: {row.figure:.4g} {row.unit}{beside}{judged}"


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s so far"


if __name__ == "__main__":
    run(size="quick", names=sys.argv[1:] or tuple(BASES))
