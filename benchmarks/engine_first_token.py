"""Time to the first token of one request by itself, and what changing to another adapter costs.

From the request's arrival at the engine to the first token chosen, as `/metrics` counts it; four kinds of requests in
turns. An adapter that is not in memory is read from its folder: while the kernel still has its pages, and after they
were dropped, which is then a matter of the disk.

A switch is timed on the engine's thread: a row leaves, another joins, and the products of the first layer are added,
for the first time with what that prepares, and once more without; the difference and the two moves are the switch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console

from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.turn import Turn
from adapter_service.measuring.provenance import Result
from benchmarks.engine_service import RANK, ServiceHere, random_adapter
from benchmarks.engine_size import Size

if TYPE_CHECKING:
    from adapter_service.lora.rows import AdapterRows, Row

RESIDENT, ON_DISK_MS = 1.1, 50.0
ALONE_MS, JOINING_MS = 1.0, 4.0
_ROWS = 8
_TOKENS = 2


def measure(here: ServiceHere, size: Size, console: Console) -> list[Result]:
    rows = [*_first_tokens(here, size, console), *_switches(here, size)]
    for row in rows:
        console.print(f"{row.measure}: {row.figure:.4g} {row.unit}", soft_wrap=True)
    return rows


def _first_tokens(here: ServiceHere, size: Size, console: Console) -> list[Result]:
    resident, *others = here.files
    absent = _turns(others, here.services.settings.serving.max_adapters)
    number = 0

    def of(files: Callable[[], AdapterFiles | None]) -> float:
        return here.first_token(here.ask(number, files(), _TOKENS))

    def cold() -> AdapterFiles:
        files = next(absent)
        _drop_pages(files.folder)
        return files

    def in_memory() -> AdapterFiles:
        here.first_token(here.ask(0, resident, _TOKENS))  # reading the others has driven it out
        return resident

    kinds: dict[str, Callable[[], AdapterFiles | None]] = {
        "base": lambda: None,
        "resident": in_memory,
        "read": lambda: next(absent),
        "cold": cold,
    }
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(-1, size.single):
        for kind in sorted(kinds, reverse=number % 2 == 0):
            made = of(kinds[kind])
            if number >= 0:
                taken[kind].append(made)
    console.print("first tokens: " + ", ".join(f"{kind} {median(each):.1f} ms" for kind, each in taken.items()))
    return first_token_rows(taken)


def first_token_rows(taken: dict[str, list[float]]) -> list[Result]:
    base = median(taken["base"])
    ratio = median(ours / of_base for ours, of_base in zip(taken["resident"], taken["base"], strict=True))
    unit = f"ms, median of {len(taken['base'])}"
    more = median(read - of_base for read, of_base in zip(taken["read"], taken["base"], strict=True))
    cold = median(read - of_base for read, of_base in zip(taken["cold"], taken["base"], strict=True))
    return [
        Result(
            "first token, adapter resident", median(taken["resident"]), unit, "the base", base, ratio,
            RESIDENT, ratio <= RESIDENT,
        ),
        Result(
            f"first token over the base's, adapter of rank {RANK} on disk (in the page cache)", more, unit,
            target=ON_DISK_MS, met=more <= ON_DISK_MS,
        ),
        Result(f"first token over the base's, adapter of rank {RANK} on disk (pages dropped)", cold, unit),
    ]  # fmt: skip


def _turns(files: list[AdapterFiles], slots: int) -> Iterator[AdapterFiles]:
    """One after the other, of more than there are slots: each has been driven out when it comes again."""
    if len(files) <= slots:
        raise SystemExit(f"{len(files)} adapters all fit into {slots} slots")
    while True:
        yield from files


def _drop_pages(folder: Path) -> None:
    """Have the kernel forget what it holds of the files."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _switches(here: ServiceHere, size: Size) -> list[Result]:
    alone, joining, first_other = here.engine.run(lambda turn: _switched(turn, size.single))
    unit = f"ms, median of {size.single}"
    return [
        Result(
            "switch to another resident adapter, alone", median(alone), unit,
            target=ALONE_MS, met=median(alone) <= ALONE_MS,
        ),
        Result(
            f"switch to another resident adapter, a row that joins {_ROWS - 1} others", median(joining), unit,
            target=JOINING_MS, met=median(joining) <= JOINING_MS,
        ),
        Result(
            f"each of {_ROWS} rows copied when another adapter joins {_ROWS - 1} rows of one",
            median(first_other) / _ROWS, f"{unit}, a row",
        ),
    ]  # fmt: skip


def _switched(turn: Turn, repeats: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of a switch alone, of one that joins rows of other adapters, and of one that joins rows of one."""
    import torch

    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.lora.rows import AdapterRows, Row

    base = turn.base
    adapters = [
        ResidentAdapter.of(str(seed), random_adapter(turn, seed), base.adapter_dtype, base.device)
        for seed in range(_ROWS + 1)
    ]
    alone: list[float] = []
    joining: list[float] = []
    first_other: list[float] = []  # in the first of these, memory is also made
    with torch.inference_mode():
        lone = AdapterRows(_ROWS)
        row = _row_in(lone, Row(adapters[0]), turn)
        mixed = AdapterRows(_ROWS)
        for adapter in adapters[: _ROWS - 1]:
            _row_in(mixed, Row(adapter), turn)
        last = _row_in(mixed, Row(adapters[-1]), turn)
        same = AdapterRows(_ROWS)
        for number in range(repeats):
            following = Row(adapters[(number + 1) % _ROWS])
            alone.append(_switch(lone, row, following, turn))
            row = following
            other = Row(adapters[_ROWS - 1 + number % 2])
            joining.append(_switch(mixed, last, other, turn))
            last = other
            for one in same.order:
                same.leave(one)
            for _ in range(_ROWS - 1):
                _row_in(same, Row(adapters[0]), turn)
            first_other.append(_switch(same, None, Row(adapters[1]), turn))
    return alone, joining, first_other


def _row_in(rows: AdapterRows, row: Row, turn: Turn) -> Row:
    rows.join(row)
    _first_layer(rows, turn)()
    return row


def _switch(rows: AdapterRows, old: Row | None, new: Row, turn: Turn) -> float:
    """Milliseconds of `new` in place of `old`, or beside those that are there, ready for the next step."""
    add = _first_layer(rows, turn)
    started = time.perf_counter()
    if old is not None:
        rows.leave(old)
    rows.join(new)
    add()
    ready = time.perf_counter()
    add()
    return (ready - started - (time.perf_counter() - ready)) * 1000


def _first_layer(rows: AdapterRows, turn: Turn) -> Callable[[], None]:
    """The product of the first layer for all rows; rows that are there when it is called are taken."""
    import torch

    path, layer = next(iter(turn.layers.items()))

    def add() -> None:
        count = len(rows.order)
        rows.add(path, torch.ones(count, 1, layer.in_features), torch.ones(count, 1, layer.out_features))

    return add
