"""Training beside the tools that people would use: the same base, rows, adapter to begin with and number of steps.

Every trainer is a process of its own (`training_run.py`); all are there at once and work in turns of a few steps, so
that what else the machine does weighs on all of them alike. Speed is real tokens a second, without padding, from
the first step on. Each trainer has an order of its own, so that a round's rows differ in their lengths: ratios are
within a round, the median of the rounds is judged, and beside it stands the ratio of the whole runs. Memory is what
was taken over the loaded base at most. The holdout loss of all is scored by our own code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from adapter_service.measuring.provenance import Result, versions, write_results
from adapter_service.rendering import RenderedSample
from adapter_service.settings import load_settings
from benchmarks.training_plots import plot_losses
from benchmarks.training_rows import make_rows, write_rows
from benchmarks.training_run import HF_FLOAT32, HF_SINGLE, HF_TUNED, OURS, SEQUENCES_PER_STEP, START, TRL, Job

RESULTS = Path("benchmarks/results")
# Rounds, and the steps of one; of the trainers whose holdout loss is not compared fewer. TRL on Gemma takes 80 s a
# round on two cores, and all benchmarks together shall be done in half an hour.
QUICK = {"rounds": 4, "steps_per_round": 4, "brief_steps_per_round": 1}
FULL = {"rounds": 10, "steps_per_round": 25, "brief_steps_per_round": 25}
HELD_OUT = 24
PEAK_SHARE = 0.6
ESTIMATE_OFF = 0.15
# A loss may be so many times the peer's; less is no fault.
LOSS_RATIO = 1.01
_PEERS = (TRL, HF_TUNED, HF_SINGLE, HF_FLOAT32)
# At least so many times the peer's tokens a second, at most so many times its memory.
_TARGETS = {
    ("fast", TRL): (3.5, 0.45),
    ("fast", HF_TUNED): (2.5, 0.7),
    ("small", TRL): (2.5, 0.16),
    ("small", HF_TUNED): (1.7, 0.25),
}


@dataclass(frozen=True, slots=True)
class Base:
    """A base, and how many of a step's 8 sequences Trainer takes at a time on it: its logits are of every token.

    Tuned it is `tuned_batch`, and once more one by one, which pads nothing; without tuning it is the default, 8, or
    what there is memory for.
    """

    name: str
    title: str
    tuned_batch: int = 4
    default_batch: int = SEQUENCES_PER_STEP


BASES = {
    "smollm2": Base("package:smollm2-135m", "SmolLM2-135M"),
    "gemma3": Base("package:gemma3-270m", "Gemma 3 270M", default_batch=4),
}


@dataclass(frozen=True, slots=True)
class Round:
    """What one trainer took for the steps of one round."""

    tokens: int
    seconds: float
    processor_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def __str__(self) -> str:
        busy = self.tokens / self.processor_seconds
        return f"{self.tokens_per_second:.1f} tokens/s ({busy:.1f} of processor time)"


@dataclass(frozen=True, slots=True)
class Ran:
    """A trainer's whole run, and its holdout loss after each round."""

    rounds: Sequence[Round]
    steps: int
    grown_mb: float
    holdout_losses: Sequence[float]
    gflop: float | None = None
    peak_gflops: float | None = None
    estimated_mb: float | None = None

    @property
    def steps_per_round(self) -> int:
        return self.steps // len(self.rounds)

    @property
    def holdout_loss(self) -> float:
        return self.holdout_losses[-1]

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(seconds of training until then, holdout loss) after each round."""
        seconds = accumulate(round_.seconds for round_ in self.rounds)
        return list(zip(seconds, self.holdout_losses, strict=True))

    @property
    def seconds(self) -> float:
        return sum(round_.seconds for round_ in self.rounds)

    @property
    def tokens(self) -> int:
        return sum(round_.tokens for round_ in self.rounds)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def run(*, full: bool, console: Console | None = None, names: Sequence[str] = tuple(BASES)) -> None:
    """Measure on one base after the other, and write results and a plot for each."""
    console = console or Console()
    for name in names:
        base = BASES[name]
        ran, start_loss = measure(base, FULL if full else QUICK, console)
        rows = rows_of(base, ran, start_loss)
        write_results(RESULTS / f"training_{name}.json", rows)
        plot_losses(
            RESULTS / f"training_{name}.png",
            {label(trainer, base): [(0.0, start_loss), *taken.curve] for trainer, taken in ran.items()},
            title=f"{base.title}: LoRA of rank 16 on all linear layers, 8 sequences a step",
        )
        for row in rows:
            console.print(_line(row), markup=False, soft_wrap=True)


def measure(base: Base, size: Mapping[str, int], console: Console) -> tuple[dict[str, Ran], float]:
    """Train with every trainer, in turns; each row is trained on once. Also the holdout loss that all begin with."""
    rounds = size["rounds"]
    trainers = [*OURS, HF_FLOAT32, HF_TUNED, HF_SINGLE, *([TRL] if find_spec("trl") else [])]
    with tempfile.TemporaryDirectory(prefix="training-bench-") as made, ExitStack() as running:
        folder = Path(made)
        rows = prepare(folder, base, size)
        console.print(
            f"{base.title}: {len(rows)} rows, {sum(len(row.ids) for row in rows)} tokens", markup=False, soft_wrap=True
        )
        children = {}
        for name in trainers:  # one after the other: ours measures, as it loads, how the machine multiplies
            children[name] = running.enter_context(Child.started(name, folder))
            children[name].said()
        said: dict[str, list[dict[str, Any]]] = {name: [] for name in trainers}
        for number in range(rounds):
            for name in _from(trainers, number):
                said[name].append(children[name].turn())
            speeds = ", ".join(f"{name} {rounds_of(taken)[-1]}" for name, taken in said.items())
            console.print(f"round {number + 1} of {rounds}: {speeds}", markup=False, soft_wrap=True)
        # The last turn is for what is known beside the meter.
        more = {name: each.turn() for name, each in children.items()}
        with Child.started("score", folder) as scorer:
            holdout = scorer.said()
    if idle := [name for name in trainers if holdout[name][-1] == holdout[START][0]]:
        raise SystemExit(f"{', '.join(idle)}: the adapter is as it was; nothing was trained")
    ran = {
        name: Ran(rounds_of(taken), taken[-1]["steps"], taken[-1]["grown_mb"], holdout[name], **more[name])
        for name, taken in said.items()
    }
    return ran, holdout[START][0]


def prepare(folder: Path, base: Base, size: Mapping[str, int], *, rows: int | None = None) -> list[RenderedSample]:
    """Write what all trainers are given into `folder`; returns the rows, as many as are trained on unless given."""
    from adapter_service.base_models.importing import import_gguf
    from adapter_service.base_models.locating import locate
    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.lora.folder import write_folder
    from adapter_service.lora.layer import install
    from adapter_service.model_utils import load_base

    settings = load_settings()
    bases_dir = settings.storage.state_dir.absolute() / "bases"
    loaded = load_base(base.name, bases_dir=bases_dir, device="cpu")
    layers = install(loaded.model, keep=loaded.model.get_output_embeddings())
    (folder / START).mkdir()
    write_folder(Adapter.fresh(LoraConfig(r=16, alpha=32), layers, seed=0), folder / START, base_name=base.name)
    count = rows or size["rounds"] * size["steps_per_round"] * SEQUENCES_PER_STEP
    made = make_rows(settings, loaded.tokenizer, count, seed=0)
    write_rows(folder / "rows.json", made)
    write_rows(folder / "holdout.json", make_rows(settings, loaded.tokenizer, HELD_OUT, seed=1, held_out=True))
    job = Job(
        base=base.name,
        base_folder=str(import_gguf(locate(base.name).parts, bases_dir, lambda _: None)),
        bases_dir=str(bases_dir),
        **size,
        tuned_batch=base.tuned_batch,
        default_batch=base.default_batch,
    )
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    return made


class Child:
    """A process that works in turns and says JSON on stdout; what it prints besides is in a log."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    @contextmanager
    def started(cls, name: str, folder: Path) -> Iterator[Child]:
        """One of the trainers. It ends with the block, finished or not."""
        environment = {}
        if name not in OURS:
            # What our package sets for its own training is no default of the peers'; it is imported there too.
            environment = {"GOMP_SPINCOUNT": None, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}
        command = [sys.executable, "-m", "benchmarks.training_run", name, str(folder)]
        with cls.of(command, folder / f"{name}.log", environment) as child:
            yield child

    @classmethod
    @contextmanager
    def of(cls, command: Sequence[str], log: Path, environment: Mapping[str, str | None]) -> Iterator[Child]:
        """A process of `command`, with variables set or, where they are None, left out."""
        variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with log.open("w") as errors, subprocess.Popen(command, stderr=errors, env=variables, **pipes) as process:
            try:
                yield cls(process, log)
            finally:
                process.kill()

    def turn(self, asked: str = "") -> dict[str, Any]:
        """Let it go on with what is asked, until it says the next thing."""
        self.go_on(asked)
        return self.said()

    def go_on(self, asked: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{asked}\n")
        self._process.stdin.flush()

    def said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._log.stem} ended:\n{self._log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


def rounds_of(said: Sequence[Mapping[str, Any]]) -> list[Round]:
    """What each round took, of reports that each have it from the beginning."""
    keys = ("tokens", "seconds", "processor_seconds")
    before = [dict.fromkeys(keys, 0), *said]
    return [Round(*(now[key] - then[key] for key in keys)) for then, now in zip(before[:-1], said, strict=True)]


def rows_of(base: Base, ran: Mapping[str, Ran], start_loss: float) -> list[Result]:
    """The rows of the results file; a peer that is not installed has none."""
    rows = [Result(f"{base.title}: holdout loss before training", start_loss, "nats/token")]
    # What disturbs a measurement of the peak can only lower it: the highest that any of ours saw is the machine's.
    peak = max((each.peak_gflops for each in ran.values() if each.peak_gflops is not None), default=None)
    for name, preset in [(name, preset) for name, preset in OURS.items() if name in ran]:
        for peer in _PEERS:
            if peer in ran:
                rows.extend(_beside(base, preset, ran[name], peer, ran[peer]))
        if (estimated := ran[name].estimated_mb) is not None:
            off = abs(estimated / ran[name].grown_mb - 1)
            rows.append(
                Result(
                    f"{base.title}, {preset}: how far off the estimate of memory was ({estimated:.0f} MiB)", off,
                    "of 1", target=ESTIMATE_OFF, met=off <= ESTIMATE_OFF,
                )
            )  # fmt: skip
        if (share := _share_of_peak(ran[name], peak)) is not None:
            is_target = preset == "fast"
            rows.append(
                Result(
                    f"{base.title}, {preset}: model flops over the machine's at products alone", share, "of 1",
                    target=PEAK_SHARE if is_target else None, met=share >= PEAK_SHARE if is_target else None,
                )
            )  # fmt: skip
    return rows


def _beside(base: Base, preset: str, ours: Ran, peer: str, theirs: Ran) -> Iterator[Result]:
    where, who = f"{base.title}, {preset}", label(peer, base)
    least_speed, most_memory = _TARGETS.get((preset, peer), (None, None))
    speeds = ([each.tokens_per_second for each in run.rounds] for run in (ours, theirs))
    our_speeds, their_speeds = speeds
    ratio = median(a / b for a, b in zip(our_speeds, their_speeds, strict=True))
    yield Result(
        f"{where}: speed", median(our_speeds), f"tokens/s, {_rounds(ours, theirs)}", who, median(their_speeds), ratio,
        least_speed, None if least_speed is None else ratio >= least_speed,
    )  # fmt: skip
    yield Result(
        f"{where}: speed of the whole run", ours.tokens_per_second, "tokens/s", who, theirs.tokens_per_second,
        ours.tokens_per_second / theirs.tokens_per_second,
    )  # fmt: skip
    memory = ours.grown_mb / theirs.grown_mb
    yield Result(
        f"{where}: memory over the loaded base", ours.grown_mb, "MiB", who, theirs.grown_mb, memory,
        most_memory, None if most_memory is None else memory <= most_memory,
    )  # fmt: skip
    if ours.steps == theirs.steps:
        loss = ours.holdout_loss / theirs.holdout_loss
        yield Result(
            f"{where}: holdout loss after {ours.steps} steps", ours.holdout_loss, "nats/token", who,
            theirs.holdout_loss, loss, LOSS_RATIO, loss <= LOSS_RATIO,
        )  # fmt: skip


def _rounds(ours: Ran, theirs: Ran) -> str:
    """What a speed and its ratio are the median of."""
    fewer = "" if theirs.steps_per_round == ours.steps_per_round else f", the peer's of {theirs.steps_per_round}"
    return f"median of {len(ours.rounds)} rounds of {ours.steps_per_round} steps{fewer}"


def _share_of_peak(ran: Ran, peak_gflops: float | None) -> float | None:
    if ran.gflop is None or peak_gflops is None:
        return None
    return ran.gflop / ran.seconds / peak_gflops


def label(trainer: str, base: Base) -> str:
    """How a trainer is called in tables and plots, with what of it is no default."""
    if trainer in OURS:
        return f"ours, {OURS[trainer]}"
    if trainer == TRL:
        return " ".join(("TRL", *filter(None, [versions().get("trl")]), "defaults"))
    if trainer in {HF_TUNED, HF_SINGLE}:
        rows = 1 if trainer == HF_SINGLE else base.tuned_batch
        return f"Trainer + PEFT, bfloat16, by length, checkpointed, {rows} at a time"
    batch = "" if base.default_batch == SEQUENCES_PER_STEP else f", {base.default_batch} at a time for want of memory"
    return f"Trainer + PEFT defaults{batch}"


def _from(names: Sequence[str], start: int) -> list[str]:
    """`names` from another one on: which is first changes with the round."""
    place = start % len(names)
    return [*names[place:], *names[:place]]


def _line(row: Result) -> str:
    beside = "" if row.ratio is None else f", {row.ratio:.2f} x of {row.peer} ({row.peer_figure:.4g})"
    judged = "" if row.met is None else f"; target {row.target:g} {'met' if row.met else 'missed'}"
    return f"{row.measure}: {row.figure:.4g} {row.unit}{beside}{judged}"


if __name__ == "__main__":
    run(full=False, names=sys.argv[1:] or tuple(BASES))
