"""The training loop: from the first sample to the last step, on the base that also serves.

It trains one adapter's float32 matrices beside the frozen base. It does not stream, judge or
publish: samples come in, weights go out. It yields to whoever shares the base at `hooks.pause`, inside its passes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice

import torch

from adapter_service.base_models.memory_faults import says_no_memory
from adapter_service.base_models.pauses import pausing
from adapter_service.errors import JobCancelledError, NonFiniteLossError, NothingToLearnError, OutOfMemoryError
from adapter_service.lora.adapter import Adapter
from adapter_service.lora.layer import using
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.settings import LossSettings, TrainingSettings
from adapter_service.training.batching import plan_epoch, planned_steps, sequences_per_step
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loss import Head
from adapter_service.training.noise import EmbeddingNoise
from adapter_service.training.packing import MicroPlan, lay_out
from adapter_service.training.prefixes import REFRESH_STEPS, KeptPrefixes
from adapter_service.training.progress import Meter, Progress, TrainingResult
from adapter_service.training.recomputing import recomputing
from adapter_service.training.state import TrainingState
from adapter_service.training.vocabulary import Vocabulary, vocabulary_of

_FULL_LOSS = LossSettings()


@dataclass(frozen=True, slots=True)
class Hooks:
    """How the loop meets the world; all are called on the thread that trains.

    `pause` returns when training may go on, and raises when the run shall end at once. It is called before every
    micro-batch, at every layer of its passes, forward and backward, between the blocks of its loss, and before the
    optimizer's step; each time `cancelled` is asked after it. What it does with the base it does
    `base_models.pauses.apart`. `save` gets the state after every `save_steps` steps.
    """

    pause: Callable[[], None] = lambda: None
    cancelled: Callable[[], bool] = lambda: False
    report: Callable[[Progress], None] = lambda _: None
    save: Callable[[TrainingState], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None


def train(
    base: BaseModel,
    samples: Sequence[RenderedSample],
    state: TrainingState,
    settings: TrainingSettings,
    hooks: Hooks,
    loss_settings: LossSettings = _FULL_LOSS,
) -> TrainingResult:
    """Train `state.adapter` on `samples`, from `state.step` to the end.

    The preset "auto" is "fast" here: to choose by what fits is for `training.memory`.

    Raises:
        NothingToLearnError: no samples, or not one completion token in them.
        NonFiniteLossError: a loss or gradient that is not a number; the weights before it are kept.
        OutOfMemoryError: there is no memory for one sample alone.
        JobCancelledError: `hooks.cancelled` said so; noticed within one layer. `state` is as after its last whole step.
    """
    if not samples or not any(sample.completion_tokens for sample in samples):
        raise NothingToLearnError(f"{len(samples)} samples with no completion token; check the source's mapping")
    vocabulary = vocabulary_of(Head.of(base.model), samples, loss_settings, hooks.note)
    shares = base.packs_rows and not state.adapter.drops
    kept = None if settings.prefix_gradient or not shares else KeptPrefixes(base.model, base.device, samples)
    kept = kept if kept and kept.keeps_any else None
    noise = EmbeddingNoise(base.model, settings.embedding_noise)
    passes = _Passes(base, state.adapter, vocabulary, noise, hooks, settings.preset == "small", shares, kept)
    total_steps = planned_steps(len(samples), settings)
    meter = Meter(total_steps, state, base.device, vocabulary)
    for number, indices in enumerate(_steps(samples, settings, total_steps, by_length=kept is None)):
        if number < state.step:
            continue
        chosen = [samples[index] for index in indices]
        rate = _set_rate(state.optimizer, number, total_steps, settings)
        vocabulary.draw(settings.seed, number)
        # After a checkpoint too: a run that goes on from there has none.
        if kept and (number % REFRESH_STEPS == 0 or number % settings.save_steps == 0):
            kept.forget()
        loss = _gradients(passes, state, chosen, seed=settings.seed * 1_000_003 + number)
        passes.pause()  # what follows takes as long as a layer
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
    return meter.result(state, "small" if passes.recomputes else "fast")


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


def _steps(
    samples: Sequence[RenderedSample], settings: TrainingSettings, total: int, *, by_length: bool
) -> Iterator[tuple[int, ...]]:
    # Behind prefixes that are kept there is little to pad; by length, all short answers would be in steps of their own.
    lengths = [len(sample.ids) if by_length else 0 for sample in samples]
    per_step = sequences_per_step(settings)
    steps = (
        plan_epoch(lengths, sequences_per_step=per_step, seed=settings.seed, epoch=epoch)
        for epoch in range(settings.num_epochs)
    )
    return islice(chain.from_iterable(steps), total)


@dataclass(frozen=True, slots=True)
class _Passes:
    """What every forward and backward pass of a run has in common.

    It `shares` what rows begin with, which is computed once; where inputs are dropped, that is not the same in all.
    """

    base: BaseModel
    adapter: Adapter
    vocabulary: Vocabulary
    noise: EmbeddingNoise
    hooks: Hooks
    recomputes: bool
    shares: bool
    kept: KeptPrefixes | None

    def pause(self) -> None:
        self.hooks.pause()
        if self.hooks.cancelled():
            raise JobCancelledError("cancelled while training")

    def plans(self, samples: list[RenderedSample], token_budget: int) -> Iterator[MicroPlan]:
        kept = [self.kept.tokens_of(sample) for sample in samples] if self.kept else ()
        return lay_out(samples, token_budget, packs=self.base.packs_rows, shares=self.shares, kept=kept)

    def gradients(self, samples: list[RenderedSample], plan: MicroPlan, completion_tokens: int) -> float | None:
        """Add a micro-batch's gradients; its share of the step's loss, or None where there is no memory for it.

        It is not retried in here: the exception holds on to all that the pass had made.
        """
        again = recomputing(self.base.model, self.adapter) if self.recomputes else nullcontext()
        try:
            # Without threads of autograd's own, which it has on CUDA, hooks run here, where the base may be used.
            with using(self.adapter), pausing(self.pause), again, torch.autograd.set_multithreading_enabled(False):
                made = collate(self.base, samples, plan)
                states = completion_states(self.base.model, made, self.kept, self.noise)
                loss = self.vocabulary.loss(states, made.targets, completion_tokens)
                loss.backward()  # type: ignore[no-untyped-call]
                return float(loss.detach())
        except (RuntimeError, MemoryError) as error:
            if not says_no_memory(error):
                raise
            return None


def _gradients(passes: _Passes, state: TrainingState, samples: list[RenderedSample], *, seed: int) -> float:
    """Gradients of one step; returns its loss per completion token.

    Each micro-batch's loss is divided by the completion tokens of the *whole* step, so that the
    split does not change the gradient: where memory is short, the step is made anew in smaller ones.
    """
    completion_tokens = max(1, sum(sample.completion_tokens for sample in samples))
    state.adapter.zero_grad(set_to_none=True)  # a run that was ended inside a step has left some
    while True:
        with _drawing(passes, seed):
            loss = 0.0
            for plan in passes.plans(samples, state.token_budget):
                passes.pause()
                micro_loss = passes.gradients(samples, plan, completion_tokens)
                if micro_loss is None:
                    _lower_budget(state, samples, plan, passes)
                    break
                loss += micro_loss
            else:
                return loss


def _lower_budget(state: TrainingState, samples: list[RenderedSample], plan: MicroPlan, passes: _Passes) -> None:
    """Halve the budget until it is below what `plan` took, for the rest of the run.

    Raises:
        OutOfMemoryError: it is one sample alone.
    """
    state.adapter.zero_grad(set_to_none=True)
    if passes.kept:
        passes.kept.forget()
    if passes.base.device.type == "cuda":
        torch.cuda.empty_cache()
    longest = max(len(samples[place].ids) for place in plan.places)
    if len(plan.places) == 1:
        raise OutOfMemoryError(
            f"no memory is left for one sample of {longest} tokens by itself; lower training.max_seq_length, "
            f"{'' if passes.recomputes else 'choose training.preset small, '}"
            "or hold the base in fewer bits (quantization.use_8bit)"
        )
    while state.token_budget >= plan.tokens:
        state.token_budget //= 2
    passes.hooks.note(
        f"no memory for a micro-batch of {len(plan.places)} samples of up to {longest} tokens; "
        f"going on with a token budget of {state.token_budget}"
    )


def _set_rate(optimizer: torch.optim.Optimizer, step: int, total: int, settings: TrainingSettings) -> float:
    """Set the rate of matrices A, which is returned, and of B: `loraplus_lr_ratio` times it.

    LoRA+ (Hayou et al. 2024, arXiv:2402.12354), as PEFT's `create_loraplus_optimizer` has it.
    """
    rate = learning_rate(step, total, settings)
    for group, ratio in zip(optimizer.param_groups, (1.0, settings.loraplus_lr_ratio), strict=True):
        group["lr"] = rate * ratio
    return rate


@contextmanager
def _drawing(passes: _Passes, seed: int) -> Iterator[None]:
    """Dropout and noise with numbers of its own for each step: serving in between, or a resumed run, changes none."""
    passes.noise.generator = generator = torch.Generator(device=passes.base.device).manual_seed(seed)
    passes.adapter.set_dropout(generator)
    try:
        yield
    finally:
        passes.adapter.set_dropout(None)
