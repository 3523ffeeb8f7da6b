"""The training loop: from the first sample to the last step, on the base that also serves.

It trains one adapter's float32 matrices beside the frozen base. It does not stream, judge or
publish: samples come in, weights go out. It yields to whoever shares the base at `hooks.pause`.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from adapter_service.errors import JobCancelledError, NonFiniteLossError, NothingToLearnError, TrainingError
from adapter_service.lora.adapter import Adapter
from adapter_service.lora.layer import using
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.settings import TrainingSettings
from adapter_service.training.batching import plan_epoch, planned_steps, sequences_per_step
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loss import Head, completion_loss


@dataclass(frozen=True, slots=True)
class Progress:
    """After one optimizer step. `loss` is nats per completion token of that step; tokens are real ones."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    seconds_left: float
    peak_memory_mb: int


@dataclass(frozen=True, slots=True)
class Hooks:
    """How the loop meets the world; all are called on the thread that trains.

    `pause` returns when training may go on. `save` gets the state after every `save_steps` steps.
    """

    pause: Callable[[], None] = lambda: None
    cancelled: Callable[[], bool] = lambda: False
    report: Callable[[Progress], None] = lambda _: None
    save: Callable[[TrainingState], None] = lambda _: None


@dataclass(slots=True)
class Totals:
    """Of a run from its first step, resumed or not; a sample counts once in every epoch."""

    samples: int = 0
    tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class TrainingState:
    """What a run needs to go on: weights, optimizer, how many steps are done, and what they took.

    The rest (which samples make which step, the rate, dropout's numbers) follows from the step and
    the seed.
    """

    adapter: Adapter
    optimizer: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What the whole run took, also where it was resumed."""

    steps: int
    samples: int
    tokens: int
    completion_tokens: int
    seconds: float
    first_loss: float
    last_loss: float
    peak_memory_mb: int


def begin(adapter: Adapter, settings: TrainingSettings) -> TrainingState:
    optimizer = torch.optim.AdamW(
        adapter.parameters(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        foreach=True,
    )
    return TrainingState(adapter, optimizer)


def train(
    base: BaseModel,
    samples: Sequence[RenderedSample],
    state: TrainingState,
    settings: TrainingSettings,
    hooks: Hooks,
) -> TrainingResult:
    """Train `state.adapter` on `samples`, from `state.step` to the end.

    Raises:
        NothingToLearnError: no samples, or not one completion token in them.
        NonFiniteLossError: a loss or gradient that is not a number; the weights before it are kept.
        JobCancelledError: `hooks.cancelled` said so; noticed within one micro-step.
    """
    if not samples or not any(sample.completion_tokens for sample in samples):
        raise NothingToLearnError(f"{len(samples)} samples with no completion token; check the source's mapping")
    head = Head.of(base.model)
    total_steps = planned_steps(len(samples), settings)
    meter = _Meter(total_steps, state, base.device)
    for number, step in enumerate(_steps(samples, settings, total_steps)):
        if number < state.step:
            continue
        chosen = [[samples[index] for index in batch] for batch in step.micro_batches]
        rate = _set_rate(state.optimizer, number, total_steps, settings)
        _seed_dropout(state.adapter, base, settings, number)
        loss = _accumulate(base, state.adapter, chosen, head, hooks)
        norm = torch.nn.utils.clip_grad_norm_(state.adapter.parameters(), settings.max_grad_norm)
        if not math.isfinite(loss) or not bool(norm.isfinite()):
            raise NonFiniteLossError(
                f"step {number + 1}: loss {loss}, gradient norm {float(norm)}; lower learning_rate "
                f"(now {settings.learning_rate:g}) or look at the samples of this step"
            )
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step = number + 1
        state.losses.append(loss)
        hooks.report(meter.after_step(state, chosen, rate, float(norm)))
        if state.step % settings.save_steps == 0 and state.step < total_steps:
            hooks.save(state)
    state.adapter.set_dropout(None)
    return meter.result(state)


def learning_rate(step: int, total_steps: int, settings: TrainingSettings) -> float:
    """Linear warmup, then constant, or down to `min_lr_ratio` by a line or half a cosine."""
    warmup = min(settings.warmup_steps, total_steps // 2)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    if settings.lr_scheduler_type == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(1, total_steps - warmup)
    fall = done if settings.lr_scheduler_type == "linear" else (1 - math.cos(math.pi * done)) / 2
    return settings.learning_rate * (1 - (1 - settings.min_lr_ratio) * fall)


def _steps(samples: Sequence[RenderedSample], settings: TrainingSettings, total: int) -> Any:
    lengths = [len(sample.ids) for sample in samples]
    count = 0
    for epoch in range(settings.num_epochs):
        for step in plan_epoch(
            lengths,
            sequences_per_step=sequences_per_step(settings),
            budget_tokens=settings.token_budget,
            seed=settings.seed,
            epoch=epoch,
        ):
            if count == total:
                return
            count += 1
            yield step


def _accumulate(
    base: BaseModel, adapter: Adapter, micro_batches: list[list[RenderedSample]], head: Head, hooks: Hooks
) -> float:
    """Gradients of one step; returns its loss per completion token.

    Each micro-batch's loss is divided by the completion tokens of the *whole* step, so that the
    split does not change the gradient.
    """
    completion_tokens = max(1, sum(sample.completion_tokens for batch in micro_batches for sample in batch))
    loss = 0.0
    for batch in micro_batches:
        hooks.pause()
        if hooks.cancelled():
            raise JobCancelledError("cancelled while training")
        with using(adapter), _enough_memory(batch):
            made = collate(batch, base.tokenizer.pad_token_id or 0, base.device)
            micro_loss = completion_loss(completion_states(base.model, made), made.targets, head, completion_tokens)
            micro_loss.backward()  # type: ignore[no-untyped-call]
        loss += float(micro_loss.detach())
    return loss


@contextmanager
def _enough_memory(batch: list[RenderedSample]) -> Iterator[None]:
    """Say what to do where a CUDA device, or this machine, has no room for a micro-batch."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        tokens = sum(len(sample.ids) for sample in batch)
        raise TrainingError(
            f"no memory is left for a micro-batch of {len(batch)} samples, {tokens} tokens; lower "
            "training.token_budget or max_seq_length, or hold the base in 8 bits (quantization.use_8bit)"
        ) from error


def _set_rate(optimizer: torch.optim.Optimizer, step: int, total: int, settings: TrainingSettings) -> float:
    rate = learning_rate(step, total, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _seed_dropout(adapter: Adapter, base: BaseModel, settings: TrainingSettings, step: int) -> None:
    """Numbers of its own for each step: serving in between, or a resumed run, changes none of them."""
    generator = torch.Generator(device=base.device).manual_seed(settings.seed * 1_000_003 + step)
    adapter.set_dropout(generator)


class _Meter:
    """Adds up the run's totals in its state; speed and time left are of this attempt, since it began."""

    def __init__(self, total_steps: int, state: TrainingState, device: torch.device) -> None:
        self._total_steps = total_steps
        self._device = device
        self._first_step = state.step
        self._tokens_before, self._seconds_before = state.totals.tokens, state.totals.seconds
        self._started = time.monotonic()

    def after_step(
        self, state: TrainingState, batches: list[list[RenderedSample]], rate: float, norm: float
    ) -> Progress:
        samples = [sample for batch in batches for sample in batch]
        seconds = time.monotonic() - self._started
        totals = state.totals
        totals.samples += len(samples)
        totals.tokens += sum(len(sample.ids) for sample in samples)
        totals.completion_tokens += sum(sample.completion_tokens for sample in samples)
        totals.seconds = self._seconds_before + seconds
        done = state.step - self._first_step
        return Progress(
            step=state.step,
            total_steps=self._total_steps,
            loss=state.losses[-1],
            learning_rate=rate,
            gradient_norm=norm,
            tokens=totals.tokens,
            tokens_per_second=(totals.tokens - self._tokens_before) / seconds,
            seconds_left=seconds / done * (self._total_steps - state.step),
            peak_memory_mb=peak_memory_mb(self._device),
        )

    def result(self, state: TrainingState) -> TrainingResult:
        return TrainingResult(
            steps=state.step,
            **asdict(state.totals),
            first_loss=state.losses[0] if state.losses else math.nan,
            last_loss=state.losses[-1] if state.losses else math.nan,
            peak_memory_mb=peak_memory_mb(self._device),
        )


def peak_memory_mb(device: torch.device) -> int:
    """The most that this process has held, in MB: of `device` where that is a GPU, else of resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
