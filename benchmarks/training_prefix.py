"""Training rows that begin with the same system prompt: with that computed once a pass, and with it in every row.

The same rows, in passes of the same budget, forward and backward, in turns; the target is on the median of the
rounds' own ratios. That the gradient is the same is for the tests.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from rich.console import Console

from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import install, using
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.model_utils import BaseModel, load_base
from adapter_service.rendering import RenderedSample
from adapter_service.settings import load_settings
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loss import Head, completion_loss
from adapter_service.training.packing import lay_out
from benchmarks.training import RESULTS
from benchmarks.training_rows import make_rows

BASE = "package:smollm2-135m"
PREFIX_TOKENS, OWN_TOKENS, COMPLETION_TOKENS = 400, 32, 12
ROWS, BUDGET_TOKENS = 64, 2048
_ROUNDS = {False: 1, True: 3}
_LEAST_RATIO = 4.0


def run(*, full: bool, console: Console | None = None) -> None:
    """Measure, and write the results."""
    console = console or Console()
    settings = load_settings()
    base = load_base(BASE, bases_dir=settings.storage.state_dir / "bases", device="cpu")
    layers = install(base.model, keep=base.model.get_output_embeddings())
    adapter = Adapter.fresh(LoraConfig(), layers, seed=0)
    rows = _rows_with_a_prefix(base)
    speeds: dict[bool, list[float]] = {True: [], False: []}
    rounds = _ROUNDS[full]
    for number in range(rounds):
        for shares in (True, False) if number % 2 else (False, True):
            speeds[shares].append(len(rows) / _seconds(base, adapter, rows, shares=shares))
        console.print(f"round {number + 1} of {rounds}: {speeds[True][-1]:.2f} and {speeds[False][-1]:.2f} rows/s")
    ratio = median(ours / plain for ours, plain in zip(speeds[True], speeds[False], strict=True))
    row = Result(
        f"Shared prefix: {ROWS} rows of {PREFIX_TOKENS} common tokens and {OWN_TOKENS} of their own",
        median(speeds[True]), "rows/s", "the prefix in every row", median(speeds[False]), ratio,
        _LEAST_RATIO, met=ratio >= _LEAST_RATIO,
    )  # fmt: skip
    write_results(RESULTS / "training_prefix.json", [row])
    console.print(f"{row.measure}: {ratio:.2f} x as many rows/s")


def _rows_with_a_prefix(base: BaseModel) -> list[RenderedSample]:
    text = [token for row in make_rows(load_settings(), base.tokenizer, 64, seed=0) for token in row.ids]
    prefix, rest = text[:PREFIX_TOKENS], text[PREFIX_TOKENS:]
    own = [rest[at : at + OWN_TOKENS] for at in range(0, ROWS * OWN_TOKENS, OWN_TOKENS)]
    start = PREFIX_TOKENS + OWN_TOKENS - COMPLETION_TOKENS
    return [RenderedSample([*prefix, *tokens], start) for tokens in own]


def _seconds(base: BaseModel, adapter: Adapter, rows: list[RenderedSample], *, shares: bool) -> float:
    """Of the gradients of one step over all rows."""
    head, completion_tokens = Head.of(base.model), sum(row.completion_tokens for row in rows)
    started = time.perf_counter()
    for plan in lay_out(rows, BUDGET_TOKENS, packs=base.packs_rows, shares=shares):
        with using(adapter):
            made = collate(base, rows, plan)
            loss = completion_loss(completion_states(base.model, made), made.targets, head, completion_tokens)
            torch.autograd.backward(loss)
    adapter.zero_grad(set_to_none=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    run(full=False)
