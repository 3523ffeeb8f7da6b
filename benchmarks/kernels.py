"""How steps are made: ours beside transformers with PEFT and llama.cpp, each on one thread, with rank-16 adapters.

All of them answer the same prompts with the same adapters, greedily, and take turns. One request's tokens a second are
those after the first: so many tokens' time less one token's. At the end ours and llama.cpp have all threads each.
`BENCH=quick` only shows that it runs, and keeps what it finds in `.state`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from adapter_service.backends.gguf_adapter import architecture_of, write_gguf_adapter
from adapter_service.base_models.locating import locate
from adapter_service.base_models.threads import most_threads
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.settings import KernelSetting, load_settings
from benchmarks import engine_memory, kernels_quality, kernels_sampling
from benchmarks.engine import folder_of, line_of
from benchmarks.kernels_files import write_gguf
from benchmarks.kernels_ours import Ours, read_bandwidth
from benchmarks.kernels_plot import plot_speeds
from benchmarks.training import BASES, Base, Child

RESULTS = Path("benchmarks/results")
ROWS = (1, 2, 4, 8)
PROMPT_TOKENS, LONG_PROMPT_TOKENS = 32, 512
PEFT, LLAMA = "transformers with PEFT", "llama.cpp, Q8_0"
EXACT, INT8, MODULES = "kernel auto", "kernel int8", "kernel modules"
OVER_PEFT, OVER_LLAMA, OF_BANDWIDTH, OF_BANDWIDTH_INT8 = 2.5, 1.0, 0.6, 0.5
OF_TWO_PROCESSES = 0.75
ONE, TOGETHER = "tokens/s, one request", f"tokens/s, {max(ROWS)} requests on {max(ROWS)} adapters"
PREFILL_OVER_LLAMA, TOGETHER_OVER_PEFT, TOGETHER_OVER_LLAMA = 2.0, 4.0, 2.0


@dataclass(frozen=True, slots=True)
class Size:
    rounds: int
    tokens: int
    quality_tokens: int


SIZES = {
    "quick": Size(rounds=1, tokens=6, quality_tokens=20),
    "short": Size(rounds=2, tokens=48, quality_tokens=300),
    "full": Size(rounds=7, tokens=96, quality_tokens=600),
}
# Seconds that so many rows take for a prompt of so many tokens each, and so many tokens after it.
Seconds = Callable[[int, int, int], float]
Speeds = dict[str, dict[int, list[float]]]


def run(*, size: str, console: Console | None = None, names: Sequence[str] = tuple(BASES)) -> None:
    """Measure on one base after the other, and write the results of each, by the precision that it has here."""
    console = console or Console()
    results = RESULTS if size != "quick" else load_settings().storage.state_dir / "benchmarks"
    results.mkdir(parents=True, exist_ok=True)
    for name in names:
        base = BASES[name]
        with tempfile.TemporaryDirectory(prefix="kernels-bench-") as folder:
            rows, speeds, precision = _measure(base, Path(folder), SIZES[size], console)
        title, file = f"{base.title} in {precision}", f"kernels_{name}_{precision}"
        rows = [replace(row, measure=f"{title}: {row.measure}") for row in rows]
        write_results(results / f"{file}.json", rows)
        together = {system: {count: median(found) for count, found in of.items()} for system, of in speeds.items()}
        plot_speeds(results / f"{file}.png", together, title=f"{title}, an adapter for each request")
        for row in rows:
            console.print(line_of(row), markup=False, soft_wrap=True)


def _measure(base: Base, folder: Path, size: Size, console: Console) -> tuple[list[Result], Speeds, str]:
    """What was found, tokens a second of several requests, and the type of the base's weights, in torch's words."""
    ours = Ours.of(base, max(ROWS), LONG_PROMPT_TOKENS)
    bandwidth = read_bandwidth()
    console.print(f"{base.title}: {bandwidth:.1f} GB/s are read here by one thread", markup=False)
    with ExitStack() as running:
        systems: dict[str, Seconds] = {
            EXACT: ours.seconds_by("auto"),
            INT8: ours.seconds_by("int8"),
            MODULES: ours.seconds_by("modules"),
            PEFT: _peft(running, ours, base, folder),
        }
        job = _llama_job(ours, base, folder) if find_spec("xllamacpp") else None
        if job is not None:
            systems[LLAMA] = _child(running, "benchmarks.kernels_llama", folder / "llama", job)
        single, together, prefill = _rounds(systems, size, console)
    on_all = [] if job is None or most_threads() == 1 else _on_all_threads(ours, job, folder, size, console)
    memory = engine_memory.measure(base, folder / "memory", 2, console, kernel="int8", most=OF_TWO_PROCESSES)
    rows = [
        *_decoding(single, ours, bandwidth),
        *_prefill(prefill),
        *_together(together),
        *on_all,
        *kernels_quality.measure(ours, size.quality_tokens),
        *kernels_sampling.measure(ours.logits()),
        *memory,
    ]
    return rows, together, str(ours.base.precision.dtype).removeprefix("torch.")


def _rounds(systems: Mapping[str, Seconds], size: Size, console: Console) -> tuple[Speeds, Speeds, Speeds]:
    """Tokens a second: of one request after its first token, of several from the prompts on, and of a long prompt."""
    single: Speeds = {name: {} for name in systems}
    together: Speeds = {name: {} for name in systems}
    prefill: Speeds = {name: {} for name in systems}
    for number in range(-1, size.rounds):  # the first prepares everybody
        for name in sorted(systems, reverse=number % 2 == 0):
            seconds = systems[name]
            for rows in ROWS:
                whole = seconds(rows, size.tokens + 1, PROMPT_TOKENS)
                if number >= 0:
                    together[name].setdefault(rows, []).append(rows * (size.tokens + 1) / whole)
            after_first = seconds(1, size.tokens + 1, PROMPT_TOKENS) - seconds(1, 1, PROMPT_TOKENS)
            long = seconds(1, 1, LONG_PROMPT_TOKENS)
            if number >= 0:
                single[name].setdefault(1, []).append(size.tokens / after_first)
                prefill[name].setdefault(1, []).append(LONG_PROMPT_TOKENS / long)
                console.print(
                    f"  {name}: {single[name][1][-1]:.1f} tokens/s, prompt {prefill[name][1][-1]:.0f}, "
                    f"together {[round(of[-1], 1) for of in together[name].values()]}",
                    markup=False, soft_wrap=True,
                )  # fmt: skip
    return single, together, prefill


def _beside(
    measure: str, unit: str, ours: Sequence[float], peer: str, theirs: Sequence[float], target: float | None
) -> Result:
    ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
    met = None if target is None else ratio >= target
    return Result(measure, median(ours), unit, peer, median(theirs), ratio, target, met)


def _decoding(single: Speeds, ours: Ours, bandwidth: float) -> Iterator[Result]:
    unit = ONE
    yield _beside(f"decoding ({EXACT})", unit, single[EXACT][1], PEFT, single[PEFT][1], OVER_PEFT)
    yield _beside(f"decoding ({INT8})", unit, single[INT8][1], PEFT, single[PEFT][1], None)
    yield _beside(f"decoding ({MODULES})", unit, single[MODULES][1], PEFT, single[PEFT][1], None)
    if LLAMA in single:
        yield _beside(f"decoding ({INT8})", unit, single[INT8][1], LLAMA, single[LLAMA][1], OVER_LLAMA)
        yield _beside(f"decoding ({EXACT})", unit, single[EXACT][1], LLAMA, single[LLAMA][1], None)
    targets: tuple[tuple[str, KernelSetting, float], ...] = (
        (EXACT, "auto", OF_BANDWIDTH),
        (INT8, "int8", OF_BANDWIDTH_INT8),
    )
    for name, kernel, target in targets:
        read = ours.bytes_of_a_step(kernel) * median(single[name][1]) / 1e9
        share = read / bandwidth
        measure = f"weights read in decoding ({name}, {ours.weights(kernel)})"
        yield Result(measure, read, "GB/s", "what one thread reads", bandwidth, share, target, share >= target)


def _prefill(prefill: Speeds) -> Iterator[Result]:
    measure, unit = f"a prompt of {LONG_PROMPT_TOKENS} tokens", "tokens/s"
    yield _beside(measure, unit, prefill[EXACT][1], PEFT, prefill[PEFT][1], None)
    if LLAMA in prefill:
        yield _beside(measure, unit, prefill[EXACT][1], LLAMA, prefill[LLAMA][1], PREFILL_OVER_LLAMA)


def _together(together: Speeds) -> Iterator[Result]:
    rows, unit = max(ROWS), TOGETHER
    for name in (EXACT, INT8):
        yield _beside(name, unit, together[name][rows], PEFT, together[PEFT][rows], TOGETHER_OVER_PEFT)
        if LLAMA in together:
            yield _beside(name, unit, together[name][rows], LLAMA, together[LLAMA][rows], TOGETHER_OVER_LLAMA)


def _peft(running: ExitStack, ours: Ours, base: Base, folder: Path) -> Seconds:
    place = folder / "peft"
    place.mkdir()
    job = {
        "base_folder": str(folder_of(base)),
        "dtype": ours.base.precision.to_dict()["dtype"],
        "folders": [str(ours.write_folder(number, place / f"a{number}")) for number in range(max(ROWS))],
        "prompts": ours.prompts,
        "ends": sorted(ours.base.eos_ids()),
    }
    return _child(running, "benchmarks.kernels_peft", place, job)


def _on_all_threads(ours: Ours, job: Mapping[str, Any], folder: Path, size: Size, console: Console) -> list[Result]:
    """One request and several beside llama.cpp, each on all of the processor's threads."""
    threads = most_threads()
    console.print(f"on {threads} threads each:", markup=False)
    with ExitStack() as running:
        systems = {
            INT8: ours.seconds_by("int8", threads),
            LLAMA: _child(running, "benchmarks.kernels_llama", folder / "llama", {**job, "threads": threads}),
        }
        single, together, _ = _rounds(systems, size, console)
    on, rows = f"{threads} threads each", max(ROWS)
    return [
        _beside(f"decoding ({INT8}), {on}", ONE, single[INT8][1], LLAMA, single[LLAMA][1], OVER_LLAMA),
        _beside(f"{INT8}, {on}", TOGETHER, together[INT8][rows], LLAMA, together[LLAMA][rows], TOGETHER_OVER_LLAMA),
    ]


def _llama_job(ours: Ours, base: Base, folder: Path) -> dict[str, Any]:
    """What llama.cpp is to load, on one thread."""
    place = folder / "llama"
    place.mkdir()
    parts = locate(base.name).parts
    source = place / "source.gguf"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    write_gguf(source, place / "base.gguf")
    source.unlink()
    architecture, config = architecture_of(place / "base.gguf"), ours.base.model.config.get_text_config()
    files = []
    for number in range(max(ROWS)):
        files.append(str(place / f"a{number}.gguf"))
        write_gguf_adapter(ours.adapter(number).pairs, Path(files[-1]), architecture, config)
    return {"model": str(place / "base.gguf"), "adapters": files, "prompts": ours.prompts, "threads": 1}


def _child(running: ExitStack, module: str, place: Path, job: Mapping[str, Any]) -> Seconds:
    (place / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", module, str(place)]
    # What our package sets for itself is no default of the peers'.
    child = running.enter_context(Child.of(command, place / "log", {"GOMP_SPINCOUNT": None}))
    child.said()

    def seconds(rows: int, tokens: int, prompt_tokens: int) -> float:
        asked = {"rows": rows, "tokens": tokens, "prompt_tokens": prompt_tokens}
        found: float = child.turn(json.dumps(asked))["seconds"]
        return found

    return seconds


if __name__ == "__main__":
    run(size="quick", names=sys.argv[1:] or tuple(BASES))
