"""What a training run tells of itself: after each step how far it is and how fast, and at the end what it took."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from adapter_service.rendering import RenderedSample
from adapter_service.settings.sections import loss_name
from adapter_service.training.state import TrainingState
from adapter_service.training.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Progress:
    """After one optimizer step. `loss` is nats per completion token of that step; tokens are real ones.

    Over a "sampled" `loss_vocabulary` it is an estimate of the full one, and to be called sampled.
    `token_budget` is what micro-batches are held to now: it is halved where memory is short.
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    seconds_left: float
    peak_memory_mb: int
    token_budget: int
    loss_vocabulary: Literal["all", "sampled"] = "all"

    @property
    def loss_name(self) -> str:
        """What it is called: one over a sample is never to be taken for the full one."""
        return loss_name(self.loss_vocabulary)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What the whole run took, also where it was resumed; `preset` and `token_budget` are those of its last step."""

    steps: int
    samples: int
    tokens: int
    completion_tokens: int
    seconds: float
    first_loss: float
    last_loss: float
    peak_memory_mb: int
    token_budget: int
    preset: Literal["fast", "small"]
    loss_vocabulary: Literal["all", "sampled"] = "all"

    @property
    def loss_name(self) -> str:
        return loss_name(self.loss_vocabulary)


class Meter:
    """Adds up the run's totals in its state; speed and time left are of this attempt, since it began."""

    def __init__(self, total_steps: int, state: TrainingState, device: torch.device, vocabulary: Vocabulary) -> None:
        self._total_steps = total_steps
        self._device = device
        self._loss_vocabulary = vocabulary.kind
        self._first_step = state.step
        self._tokens_before, self._seconds_before = state.totals.tokens, state.totals.seconds
        self._started = time.monotonic()

    def after_step(self, state: TrainingState, samples: list[RenderedSample], rate: float, norm: float) -> Progress:
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
            token_budget=state.token_budget,
            loss_vocabulary=self._loss_vocabulary,
        )

    def result(self, state: TrainingState, preset: Literal["fast", "small"]) -> TrainingResult:
        return TrainingResult(
            steps=state.step,
            **asdict(state.totals),
            first_loss=state.losses[0] if state.losses else math.nan,
            last_loss=state.losses[-1] if state.losses else math.nan,
            peak_memory_mb=peak_memory_mb(self._device),
            token_budget=state.token_budget,
            preset=preset,
            loss_vocabulary=self._loss_vocabulary,
        )


def peak_memory_mb(device: torch.device) -> int:
    """The most that this process has held, in MB: of `device` where that is a GPU, else of resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
