"""Training beside a base in 8 bits and beside the same one in bfloat16: speed, bytes of the weights, what is learned.

Both are in one process and take the same optimizer steps on the same rows, a few at a time and in turns, so that
what else the machine does weighs on both. Targets are on the medians of the rounds' own ratios.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console

from adapter_service.base_models.int8 import Int8Linear
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import LowRankLinear, install
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.model_utils import BaseModel, load_base
from adapter_service.rendering import RenderedSample
from adapter_service.settings import TrainingSettings, load_settings
from adapter_service.training.evaluation import score
from adapter_service.training.loop import Hooks, train
from adapter_service.training.state import TrainingState, begin
from benchmarks.training_rows import make_rows

RESULTS = Path("benchmarks/results/training_int8.json")
BASE = "package:smollm2-135m"
ROUNDS = 7
STEPS_PER_ROUND = 3
_ROWS_PER_STEP = 8
_HOLDOUT_ROWS = 48
_MIN_SPEED, _MAX_BYTES, _MAX_LOSS = 1.0, 0.55, 1.01


@dataclass
class Side:
    """One of the two bases, the run on it, and what each round of it took."""

    base: BaseModel
    layers: dict[str, LowRankLinear]
    state: TrainingState
    tokens_per_second: list[float] = field(default_factory=list)
    tokens_per_processor_second: list[float] = field(default_factory=list)

    def linear_bytes(self) -> int:
        """What the linear layers hold, the output head aside: weights, scales and biases."""
        held = [tensor for layer in self.layers.values() for tensor in layer.state_dict().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def run(*, console: Console | None = None, results: Path = RESULTS) -> None:
    """Train on both in turns, and write the results."""
    console = console or Console()
    settings = load_settings()
    sides = {name: _side(settings.storage.state_dir / "bases", eight=name == "int8") for name in ("bfloat16", "int8")}
    tokenizer = sides["int8"].base.tokenizer
    # One round more than is counted: in the first the kernels are prepared.
    rows = make_rows(settings, tokenizer, (ROUNDS + 1) * STEPS_PER_ROUND * _ROWS_PER_STEP, seed=0)
    held_out = make_rows(settings, tokenizer, _HOLDOUT_ROWS, seed=0, held_out=True)
    for number in range(ROUNDS + 1):
        for name in sorted(sides, reverse=number % 2 == 0):
            _round(sides[name], rows, until=(number + 1) * STEPS_PER_ROUND, counts=number > 0)
        console.print(f"round {number} of {ROUNDS}")
    found = list(_rows(sides["int8"], sides["bfloat16"], held_out))
    write_results(results, found)
    for row in found:
        console.print(f"{row.measure}: {row.figure:.4g} {row.unit} (ratio {row.ratio:.3f})")
    console.print(f"results in {results}")


def _side(bases_dir: Path, *, eight: bool) -> Side:
    base = load_base(BASE, bases_dir=bases_dir, device="cpu", dtype="bfloat16", use_8bit=eight)
    layers = install(base.model, keep=base.model.get_output_embeddings())
    if eight and not all(isinstance(layer.linear, Int8Linear) for layer in layers.values()):
        raise RuntimeError(f"{BASE} was not loaded in 8 bits")
    return Side(base, layers, begin(Adapter.fresh(LoraConfig(), layers, seed=0), _settings(1)))


def _settings(steps: int) -> TrainingSettings:
    """The rate is constant, so that a run may be stopped after any step and go on."""
    return TrainingSettings(
        per_device_train_batch_size=_ROWS_PER_STEP,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_steps=steps,
        save_steps=1_000_000,
    )


def _round(side: Side, rows: list[RenderedSample], *, until: int, counts: bool) -> None:
    before = side.state.totals.tokens
    started, computing = time.perf_counter(), time.process_time()
    train(side.base, rows, side.state, _settings(until), Hooks())
    if counts:
        tokens = side.state.totals.tokens - before
        side.tokens_per_second.append(tokens / (time.perf_counter() - started))
        side.tokens_per_processor_second.append(tokens / (time.process_time() - computing))


def _rows(eight: Side, plain: Side, held_out: list[RenderedSample]) -> Iterator[Result]:
    for measure, ours, theirs in (
        ("training", eight.tokens_per_second, plain.tokens_per_second),
        ("training, by processor time", eight.tokens_per_processor_second, plain.tokens_per_processor_second),
    ):
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        yield _row(measure, "tokens/s", median(ours), median(theirs), ratio, _MIN_SPEED, met=ratio >= _MIN_SPEED)
    held, plainly_held = (side.linear_bytes() / 2**20 for side in (eight, plain))
    ratio = held / plainly_held
    yield _row("linear layers", "MiB", held, plainly_held, ratio, _MAX_BYTES, met=ratio <= _MAX_BYTES)
    losses = [score(s.base, s.state.adapter, held_out, budget_tokens=2048, pause=lambda: None) for s in (eight, plain)]
    ratio = losses[0].per_token / losses[1].per_token
    steps = eight.state.step
    yield _row(
        f"holdout loss after {steps} steps", "nats per token", losses[0].per_token, losses[1].per_token, ratio,
        _MAX_LOSS, met=ratio <= _MAX_LOSS,
    )  # fmt: skip


def _row(measure: str, unit: str, figure: float, of_peer: float, ratio: float, target: float, *, met: bool) -> Result:
    return Result(
        f"int8 base: {measure}",
        round(figure, 4),
        unit,
        "our bfloat16 base",
        round(of_peer, 4),
        round(ratio, 4),
        target,
        met,
    )


if __name__ == "__main__":
    run()
