"""How long a job takes on this machine: measured at every job, for the estimate of the next.

Of each phase the last job that went through it counts; before the first nothing is known. Training is measured for
each kind of it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from adapter_service.settings import Settings
from adapter_service.training.batching import TOKENS_PER_SAMPLE, planned_steps, sequences_per_step
from adapter_service.training.dataset import BYTES_PER_ID, BYTES_PER_SAMPLE, enough_held_out


@dataclass(frozen=True, slots=True)
class TrainingKind:
    """What makes the tokens of one training slower than those of another, by a third and more.

    Which preset "auto" comes to is known only when it runs, and so is whether a sampled vocabulary is the whole one.
    """

    preset: Literal["auto", "fast", "small"]
    loss_vocabulary: Literal["all", "sampled"]
    layers: Literal["all", "top-half"]

    @classmethod
    def asked_for(cls, settings: Settings) -> TrainingKind:
        return cls(settings.training.preset, settings.loss.vocabulary, settings.lora.layers)

    def likeness(self, other: TrainingKind) -> int:
        """In how many ways one is as the other; "auto" is as any preset."""
        return (
            (self.preset in {"auto", other.preset})
            + (self.loss_vocabulary == other.loss_vocabulary)
            + (self.layers == other.layers)
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What a job may come to at most: samples to train on and held out, optimizer steps, and what is judged by.

    `seen` counts a sample as often as it is trained on; `kind` says how.
    """

    samples: int
    held_out: int
    steps: int
    seen: int
    judged_by: int
    kind: TrainingKind


def work_of(settings: Settings, tokens_per_sample: float = TOKENS_PER_SAMPLE) -> Work:
    """At most what is asked for, and what `data.max_cache_mb` holds of samples of this length."""
    room = (settings.data.max_cache_mb << 20) / (BYTES_PER_SAMPLE + BYTES_PER_ID * tokens_per_sample)
    samples = max(1, min(settings.data.max_train_samples, int(room)))
    gate = settings.gate
    fraction = enough_held_out(gate.holdout_fraction, gate.min_holdout_samples, settings.data.max_train_samples)
    held_out = min(gate.max_holdout_samples, round(samples * fraction / (1 - fraction)))
    steps = planned_steps(samples, settings.training)
    seen = min(steps * sequences_per_step(settings.training), samples * settings.training.num_epochs)
    return Work(samples, held_out, steps, seen, held_out if gate.enabled else 0, TrainingKind.asked_for(settings))


@dataclass(slots=True)
class Pace:
    """Seconds of each part of a job; None while it was not measured.

    `training_per_token` has the kinds of training in the order in which they were measured last.
    """

    streaming_per_sample: float | None = None
    training_per_token: dict[TrainingKind, float] = field(default_factory=dict)
    evaluating_per_sample: float | None = None
    tokens_per_sample: float = TOKENS_PER_SAMPLE

    def streamed(self, samples: int, seconds: float) -> None:
        if samples:
            self.streaming_per_sample = seconds / samples

    def trained(self, kind: TrainingKind, tokens: int, samples: int, seconds: float) -> None:
        if tokens:
            others = {other: pace for other, pace in self.training_per_token.items() if other != kind}
            self.training_per_token = {**others, kind: seconds / tokens}  # anew: other threads look into it
            self.tokens_per_sample = tokens / samples

    def evaluated(self, held_out: int, seconds: float) -> None:
        if held_out:
            self.evaluating_per_sample = seconds / held_out

    def streaming_seconds(self, samples: int) -> float | None:
        """Of so many samples, trained on or held out."""
        return None if self.streaming_per_sample is None else self.streaming_per_sample * samples

    def training_seconds(self, work: Work) -> float | None:
        """At the pace of that kind of training, or of the one that is most like it; of several the newest."""
        measured = self.training_per_token
        nearest = max(reversed(measured), key=work.kind.likeness, default=None)
        return None if nearest is None else measured[nearest] * self.tokens_per_sample * work.seen

    def evaluating_seconds(self, held_out: int) -> float | None:
        if not held_out:
            return 0.0
        return None if self.evaluating_per_sample is None else self.evaluating_per_sample * held_out

    def seconds(self, work: Work, *, streamed: int = 0) -> float | None:
        """From now to the end, when `streamed` of the samples are there; None while a part of it is unknown."""
        parts = (
            self.streaming_seconds(max(0, work.samples + work.held_out - streamed)),
            self.training_seconds(work),
            self.evaluating_seconds(work.judged_by),
        )
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None
