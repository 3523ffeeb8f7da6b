"""Which samples make a step, and how a step is split: pure, and the same for the same seed.

A step has a set number of sequences, so that the recipe does not depend on memory; the token
budget only splits it into micro-batches. Steps are made of samples of like length: padding is work
on nothing (1.4 times the speed, half the memory, measured).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from adapter_service.settings import TrainingSettings

# Of a sentence pair with its instruction: the mean of the sample corpus, in the default base's tokens.
TOKENS_PER_SAMPLE = 32

# Samples are sorted by length within so many steps' worth, so that a step is not always alike.
_WINDOW_STEPS = 32
# Lengths are padded to a multiple: the matrix library prepares each new shape (314 against 485 tokens/s).
PAD_MULTIPLE = 8


def padded_length(tokens: int) -> int:
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


def plan_epoch(lengths: Sequence[int], *, sequences_per_step: int, seed: int, epoch: int) -> Iterator[tuple[int, ...]]:
    """The steps of one epoch: every index of `lengths` once, in an order that `seed` and `epoch` decide."""
    shuffler = random.Random(f"{seed}:{epoch}")  # noqa: S311 - an order, not a secret
    order = list(range(len(lengths)))
    shuffler.shuffle(order)

    window = sequences_per_step * _WINDOW_STEPS
    for start in range(0, len(order), window):
        # Stable: samples of one length stay shuffled, so that each epoch puts others together.
        chosen = sorted(order[start : start + window], key=lambda index: lengths[index])
        groups = [chosen[at : at + sequences_per_step] for at in range(0, len(chosen), sequences_per_step)]
        shuffler.shuffle(groups)
        yield from map(tuple, groups)


def steps_per_epoch(samples: int, sequences_per_step: int) -> int:
    return -(-samples // sequences_per_step)


def sequences_per_step(settings: TrainingSettings) -> int:
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps


def planned_steps(samples: int, settings: TrainingSettings) -> int:
    """Optimizer steps of a whole run over `samples` samples."""
    steps = settings.num_epochs * steps_per_epoch(samples, sequences_per_step(settings))
    return min(steps, settings.max_steps or steps)


def split(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Group sequences so that each group fits `budget_tokens` when padded to its longest, longest first.

    Nothing is truncated: a sequence that is over the budget by itself is a group of its own.

    Returns:
        Indices into `lengths`; every index appears exactly once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and padded_length(lengths[groups[-1][0]]) * (len(groups[-1]) + 1) <= budget_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
