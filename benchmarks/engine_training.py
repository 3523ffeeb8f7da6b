"""A job trains on the engine's thread while it answers: what requests feel of that, and what training keeps.

The loop is the one that jobs run, on the same rows from the same beginning every time, so that a step's tokens are
the same in all: alone, beside one request of 32 tokens every ten seconds, and beside two clients that never cease.
The clients are also measured without training.

A request may have to wait for one decoder layer of one micro-batch. How long the layers' forward passes take is
measured while training is alone; a p95 between tokens is held against the p95 of those. (Backward takes longer.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console

from adapter_service.engine.turn import Turn
from adapter_service.measuring.provenance import Result
from adapter_service.rendering import RenderedSample
from adapter_service.settings import TrainingSettings, load_settings
from benchmarks.engine_service import RANK, ServiceHere, checked
from benchmarks.engine_size import Size
from benchmarks.training_rows import make_rows

SELDOM, EVERY_SECONDS, SELDOM_TOKENS = 0.7, 10.0, 32
_ROWS_PER_STEP = 4
_MOST_STEPS = 200
# A pause in which nobody is served takes microseconds, and is training's own; a turn takes tens of milliseconds.
_LEAST_TURN_SECONDS = 0.001
_CLIENTS = 2
_CLIENT_TOKENS = 32


@dataclass(frozen=True)
class Ran:
    """What training took: tokens and seconds of each step, seconds of each pause for others and of each layer."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    paused_seconds: list[float] = field(default_factory=list)
    layer_seconds: list[float] = field(default_factory=list)

    def speed(self, steps: int | None = None) -> float:
        """Tokens a second of the first so many steps."""
        return sum(self.tokens[:steps]) / sum(self.seconds[:steps])

    def speed_in_periods(self, seconds: float) -> float:
        """Tokens a second of as many whole periods of `seconds` as it took; of all where it took less than one.

        The last period is cut short where training ends, and has its request nevertheless.
        """
        whole = sum(self.seconds) // seconds * seconds
        if not whole:
            return self.speed()
        tokens, left = 0.0, whole
        for made, taken in zip(self.tokens, self.seconds, strict=True):
            tokens += made * min(1.0, left / taken)
            left = max(0.0, left - taken)
        return tokens / whole

    @property
    def share(self) -> float:
        """Of the time, what training had for itself."""
        return 1 - sum(self.paused_seconds) / sum(self.seconds)


@dataclass
class Rounds:
    """Of each round: tokens a second, seconds between tokens at the 95th percentile, and the rest."""

    alone: list[float] = field(default_factory=list)
    seldom: list[float] = field(default_factory=list)
    never_ceasing: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)  # alone, of as many steps as were made beside the requests
    share: list[float] = field(default_factory=list)
    quiet_p95: list[float] = field(default_factory=list)
    training_p95: list[float] = field(default_factory=list)
    layer_p95: list[float] = field(default_factory=list)


def measure(here: ServiceHere, size: Size, console: Console) -> list[Result]:
    rows = make_rows(load_settings(), here.engine.base.tokenizer, _MOST_STEPS * _ROWS_PER_STEP, seed=0)
    steps = _steps_in(here, rows, size.train_seconds)
    few = max(1, steps // 5)
    found = Rounds()
    for number in range(size.rounds):
        alone = train(here, rows, steps)
        with _asked(lambda stop: _seldom(here, stop)):
            seldom = train(here, rows, steps)
        here.measured.forget()
        here.closed_loop(here.files[:_CLIENTS], 2 * size.loops, _CLIENT_TOKENS)
        found.quiet_p95.append(p95(here.measured.between_tokens))
        here.measured.forget()
        begun = threading.Event()
        with _asked(*[_never_ceasing(here, place, begun) for place in range(_CLIENTS)]):
            busy = train(here, rows, few, begun)
            found.training_p95.append(p95(here.measured.between_tokens))
        found.alone.append(alone.speed())
        found.seldom.append(seldom.speed_in_periods(EVERY_SECONDS))
        found.never_ceasing.append(busy.speed())
        found.beside.append(alone.speed(few))
        found.share.append(busy.share)
        found.layer_p95.append(p95(alone.layer_seconds))
        console.print(
            f"round {number + 1} of {size.rounds}: training {found.alone[-1]:.0f} tokens/s alone, "
            f"{found.seldom[-1]:.0f} beside few requests, {found.never_ceasing[-1]:.0f} of {found.beside[-1]:.0f} "
            f"beside many ({found.share[-1]:.2f} of the time); between tokens p95 {found.quiet_p95[-1] * 1000:.0f} ms, "
            f"{found.training_p95[-1] * 1000:.0f} while it trains, one layer {found.layer_p95[-1] * 1000:.0f}",
            soft_wrap=True,
        )
    return rows_of(found, here.services.settings.serving.train_share, steps)


def rows_of(found: Rounds, configured: float, steps: int) -> list[Result]:
    seldom = median(a / b for a, b in zip(found.seldom, found.alone, strict=True))
    never = median(a / b for a, b in zip(found.never_ceasing, found.beside, strict=True))
    more = [training - quiet for training, quiet in zip(found.training_p95, found.quiet_p95, strict=True)]
    over = median(extra / layer for extra, layer in zip(more, found.layer_p95, strict=True))
    share = median(found.share)
    unit = f"tokens/s, median of {len(found.alone)} rounds of {steps} steps"
    return [
        Result(
            "between tokens, p95 while a job trains over p95 without", median(more) * 1000, "ms",
            "a decoder layer's forward pass of a micro-batch, p95", median(found.layer_p95) * 1000, over,
            1.0, over <= 1.0,
        ),
        Result("between tokens, p95 of two clients without training", median(found.quiet_p95) * 1000, "ms"),
        Result(
            "training's share of the time while requests never cease", share, "of 1",
            target=configured, met=share >= configured,
        ),
        Result(
            f"training beside one request of {SELDOM_TOKENS} tokens every {EVERY_SECONDS:.0f} s", median(found.seldom),
            unit, "training alone", median(found.alone), seldom, SELDOM, seldom >= SELDOM,
        ),
        Result(
            "training while requests never cease", median(found.never_ceasing), "tokens/s", "training alone",
            median(found.beside), never, configured, never >= configured,
        ),
    ]  # fmt: skip


def p95(seconds: Sequence[float]) -> float:
    if not seconds:
        raise SystemExit("no token followed another: the answers are too short")
    return sorted(seconds)[int(0.95 * (len(seconds) - 1))]


def _steps_in(here: ServiceHere, rows: Sequence[RenderedSample], seconds: float) -> int:
    """How many steps take about so long alone; at least two, so that kernels are prepared by then."""
    train(here, rows, 1)
    ran = train(here, rows, 2)
    return min(_MOST_STEPS, max(2, round(seconds / (sum(ran.seconds) / 2))))


def train(here: ServiceHere, rows: Sequence[RenderedSample], steps: int, begun: threading.Event | None = None) -> Ran:
    """Train from the beginning, as a job does, on the engine's thread; `begun` is set when it pauses the first time."""
    return here.engine.run(lambda turn: train_on(turn, rows, steps, begun or threading.Event()))


def train_on(turn: Turn, rows: Sequence[RenderedSample], steps: int, begun: threading.Event) -> Ran:
    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.training.loop import Hooks
    from adapter_service.training.loop import train as run_loop
    from adapter_service.training.progress import Progress
    from adapter_service.training.state import begin

    settings = TrainingSettings(
        preset="fast",
        per_device_train_batch_size=_ROWS_PER_STEP,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_steps=steps,
        save_steps=steps + 1,
    )
    ran = Ran()
    state = begin(Adapter.fresh(LoraConfig(r=RANK), turn.layers, seed=0), settings)
    since = time.perf_counter()
    counted = 0

    def pause() -> None:
        begun.set()
        reached = time.perf_counter()
        turn.pause()
        paused = time.perf_counter() - reached
        if paused > _LEAST_TURN_SECONDS:
            ran.paused_seconds.append(paused)

    def report(done: Progress) -> None:
        nonlocal since, counted
        now = time.perf_counter()
        ran.seconds.append(now - since)
        ran.tokens.append(done.tokens - counted)
        since, counted = now, done.tokens

    with _layers_timed(turn.base.model, ran.layer_seconds):
        run_loop(turn.base, rows, state, settings, Hooks(pause=pause, report=report))
    return ran


@contextmanager
def _layers_timed(model: Any, seconds: list[float]) -> Iterator[None]:
    """Add the seconds of every decoder layer's forward pass, with whatever is answered in its pauses."""
    started = 0.0

    def begin(*_: Any) -> None:
        nonlocal started
        started = time.perf_counter()

    def end(*_: Any) -> None:
        seconds.append(time.perf_counter() - started)

    layers = model.get_decoder().layers
    handles = [
        handle
        for layer in layers
        for handle in (layer.register_forward_pre_hook(begin), layer.register_forward_hook(end))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


Client = Callable[[threading.Event], None]


@contextmanager
def _asked(*clients: Client) -> Iterator[None]:
    """Within it the clients ask; it ends when their answers under way have."""
    stop = threading.Event()
    faults: list[BaseException] = []

    def run(client: Client) -> None:
        try:
            client(stop)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            faults.append(error)

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if faults:
        raise faults[0]


def _seldom(here: ServiceHere, stop: threading.Event) -> None:
    """One request at once, then one every ten seconds."""
    number = 0
    while not stop.is_set():
        due = time.monotonic() + EVERY_SECONDS
        checked(here.engine.submit(here.ask(number, here.files[0], SELDOM_TOKENS)).result())
        number += 1
        stop.wait(max(0.0, due - time.monotonic()))


def _never_ceasing(here: ServiceHere, place: int, begun: threading.Event) -> Client:
    """From `begun` on: what waits for the engine's thread while requests never cease is another matter."""

    def ask(stop: threading.Event) -> None:
        begun.wait()
        number = place
        while not stop.is_set():
            checked(here.engine.submit(here.ask(number, here.files[place], _CLIENT_TOKENS)).result())
            number += _CLIENTS

    return ask
