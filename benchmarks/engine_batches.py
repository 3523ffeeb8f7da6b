"""Eight requests at one moment, each with its own adapter: beside PEFT's mixed batch, and beside eight with one.

All of it is timed, from the first prompt to the last token. PEFT gets the same folders and prompts. That both give
the same greedy answers is checked, up to the first token at which the two that were chosen are as good as equal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console

from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.turn import Turn
from adapter_service.measuring.provenance import Result
from benchmarks.engine_service import ServiceHere, checked
from benchmarks.engine_size import Size
from benchmarks.training import Child

ROWS = 8
OVER_PEFT, OVER_ONE = 3.0, 0.9
# Of the largest logit: how far the token that we chose may be from PEFT's, by the base's own pass. Where both compute
# in bfloat16, its steps are 0.008 of a value, and over as many layers as there are the two add up in different orders.
NEAR = 0.06


@dataclass
class Speeds:
    """Tokens a second of each round."""

    mixed: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    peft: list[float] = field(default_factory=list)
    peft_threads: int = 0
    near_ties: int = 0


def measure(here: ServiceHere, folder: Path, base_folder: Path, size: Size, console: Console) -> list[Result]:
    speeds = Speeds()
    files = here.files[:ROWS]
    tokens = ROWS * size.tokens
    with _peft(here, folder, base_folder, size) as child:
        speeds.peft_threads = child.said()["threads"]
        for number in range(-1, size.rounds):  # in the first the engine's kernels are prepared, and answers compared
            turns = {
                "mixed": lambda: here.together(_asks(here, files, size.tokens)),
                "one": lambda: here.together(_asks(here, files[:1] * ROWS, size.tokens)),
                "peft": lambda: _peft_seconds(child),
            }
            if number < 0:
                speeds.near_ties = compare(here, files, child.turn()["ids"], size.tokens)
            for name in sorted(turns, reverse=number % 2 == 0):
                seconds = turns[name]()
                if number >= 0:
                    getattr(speeds, name).append(tokens / seconds)
    console.print(
        f"8 requests on 8 adapters: {speeds.mixed} tokens/s, on one {speeds.one}, PEFT {speeds.peft}", soft_wrap=True
    )
    return rows_of(speeds, size)


def rows_of(speeds: Speeds, size: Size) -> list[Result]:
    unit = f"tokens/s, median of {len(speeds.mixed)} rounds of {ROWS} × {size.tokens} tokens"
    over_peft = median(ours / theirs for ours, theirs in zip(speeds.mixed, speeds.peft, strict=True))
    over_one = median(ours / theirs for ours, theirs in zip(speeds.mixed, speeds.one, strict=True))
    measure = "8 requests on 8 adapters"
    threads = f"{speeds.peft_threads} thread{'' if speeds.peft_threads == 1 else 's'}, its faster"
    return [
        Result(
            measure, median(speeds.mixed), unit, f"PEFT generate(adapter_names=…), {threads}", median(speeds.peft),
            over_peft, OVER_PEFT, over_peft >= OVER_PEFT,
        ),
        Result(
            measure, median(speeds.mixed), unit, "our 8 requests on one adapter", median(speeds.one),
            over_one, OVER_ONE, over_one >= OVER_ONE,
        ),
        Result(f"greedy answers of {ROWS} that part from PEFT's at a near tie", speeds.near_ties, "answers"),
    ]  # fmt: skip


def _asks(here: ServiceHere, files: Sequence[AdapterFiles], tokens: int) -> list[Ask]:
    return [here.ask(number, one, tokens) for number, one in enumerate(files)]


@contextmanager
def _peft(here: ServiceHere, folder: Path, base_folder: Path, size: Size) -> Iterator[Child]:
    job = {
        "base_folder": str(base_folder),
        "dtype": here.engine.base.precision.to_dict()["dtype"],  # what the machine multiplies faster is for both
        "folders": [str(one.folder) for one in here.files[:ROWS]],
        "prompts": here.prompts[:ROWS],
        "ends": sorted(here.engine.base.eos_ids() | here.engine.renderer.end_ids),  # none of which is to be chosen
        "tokens": size.tokens,
        "warm_tokens": max(2, size.tokens // 8),
    }
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "benchmarks.engine_peft", str(folder)]
    # What our package sets for itself is no default of the peer's.
    environment: Mapping[str, str | None] = {"GOMP_SPINCOUNT": None}
    with Child.of(command, folder / "peft.log", environment) as child:
        yield child


def _peft_seconds(child: Child) -> float:
    seconds: float = child.turn()["seconds"]
    return seconds


def compare(here: ServiceHere, files: Sequence[AdapterFiles], theirs: Sequence[Sequence[int]], tokens: int) -> int:
    """How many answers part from PEFT's.

    Raises:
        SystemExit: one parts where the tokens are not nearly equal.
    """
    asks = [replace(ask, sampling=replace(ask.sampling, return_tokens=True)) for ask in _asks(here, files, tokens)]
    results = [checked(generation.result()) for generation in [here.engine.submit(ask) for ask in asks]]
    parted = 0
    for ask, result, other in zip(asks, results, theirs, strict=True):
        trail = result.only.tokens
        assert trail is not None
        assert ask.adapter is not None
        ours = trail.ids
        place = next((place for place, (a, b) in enumerate(zip(ours, other, strict=True)) if a != b), None)
        if place is None:
            continue
        parted += 1
        ids, adapter = [*ask.prompt_ids, *ours[:place]], ask.adapter
        chosen = (ours[place], other[place])
        apart = here.engine.run(partial(_apart, ids=ids, files=adapter, tokens=chosen))
        if apart > NEAR:
            raise SystemExit(
                f"token {place} of an answer is {ours[place]}, PEFT's {other[place]}: {apart:.3f} of the largest "
                "logit apart"
            )
    return parted


def _apart(turn: Turn, *, ids: list[int], files: AdapterFiles, tokens: tuple[int, int]) -> float:
    """Between the logits of two tokens after `ids`, of the largest, by a plain pass of the base with the adapter."""
    import torch

    from adapter_service.lora.layer import using

    with torch.inference_mode(), using(turn.read_adapter(files)):
        logits = turn.base.model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
    return abs(float(logits[tokens[0]]) - float(logits[tokens[1]])) / float(logits.abs().max())
