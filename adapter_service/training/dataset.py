"""The samples of one run: streamed once, rendered to tokens, with a holdout set aside by hash.

A sample's hash decides which side it is on, so the holdout is the same whatever the order, the
paraphrase or the number of samples, and no later run of the same corpus trains on it either.
Tokens are kept in memory, at most `max_bytes` of them: a source of any size can be read from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from adapter_service.errors import InvalidSampleError, NothingToLearnError, TooManyBadRecordsError
from adapter_service.rendering import RenderedSample, Renderer
from adapter_service.samples import Sample

# A Python integer and its place in a tuple.
_BYTES_PER_TOKEN = 40
_KEY_SPACE = 16**16
_MOST_HELD_OUT = 0.5
# Which side a sample is on is a matter of its hash, so their number varies around the fraction.
_MARGIN = 1.5
_SHOWN_REFUSALS = 5
# From so many samples on, the share of those that cannot be used is judged while the stream goes on.
_MIN_SEEN = 20


@dataclass(slots=True)
class Dataset:
    """`train` and the rendered holdout; `holdout` keeps the samples as well, to generate and compare.

    `refused` counts those that could not be rendered (too long, nothing to learn), `refusals` has the
    first reasons; `stopped_by` says why the stream was left before its end.
    """

    train: list[RenderedSample] = field(default_factory=list)
    holdout: list[Sample] = field(default_factory=list)
    holdout_rendered: list[RenderedSample] = field(default_factory=list)
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    stopped_by: str | None = None
    tokens: int = 0
    completion_tokens: int = 0

    @property
    def seen(self) -> int:
        return len(self.train) + len(self.holdout) + self.refused

    @property
    def samples_hash(self) -> str:
        """Changes with the tokens trained on, their order, and where the completions begin."""
        digest = hashlib.sha256()
        for sample in self.train:
            digest.update(f"{sample.completion_start}:{sample.ids};".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Limits:
    max_samples: int
    max_tokens: int
    max_bytes: int
    max_skipped_fraction: float
    holdout_fraction: float
    max_holdout_samples: int


def enough_held_out(fraction: float, min_samples: int, max_train_samples: int) -> float:
    """`fraction`, or more where a small job would hold out too few samples to be judged by; at most half.

    What a smaller fraction holds out, a larger one does too.
    """
    return max(fraction, min(_MOST_HELD_OUT, _MARGIN * min_samples / max_train_samples))


def is_held_out(key: str, fraction: float) -> bool:
    """Whether a sample (`Sample.key`) belongs to the holdout, of which there is `fraction` of all."""
    return int(key, 16) < fraction * _KEY_SPACE


def collect(stream: Iterable[Sample], renderer: Renderer, limits: Limits) -> Dataset:
    """Read until `max_samples` are there to train on, or the stream ends, or memory's share is used.

    Raises:
        TooManyBadRecordsError: too large a share is longer than `max_tokens`.
        NothingToLearnError: no sample is left to train on.
    """
    dataset = Dataset()
    for sample in stream:
        _add(dataset, sample, renderer, limits)
        if len(dataset.train) >= limits.max_samples:
            dataset.stopped_by = f"data.max_train_samples = {limits.max_samples}"
            break
        if dataset.tokens * _BYTES_PER_TOKEN >= limits.max_bytes:
            dataset.stopped_by = f"data.max_cache_mb: {len(dataset.train)} samples fill it"
            break
    _check(dataset, limits)
    return dataset


def _add(dataset: Dataset, sample: Sample, renderer: Renderer, limits: Limits) -> None:
    held_out = is_held_out(sample.key, limits.holdout_fraction)
    if held_out and len(dataset.holdout) >= limits.max_holdout_samples:
        return
    try:
        rendered = renderer.render(sample, limits.max_tokens)
    except InvalidSampleError as error:
        _refuse(dataset, f"{sample.origin}: {error}", limits)
        return
    if held_out:
        dataset.holdout.append(sample)
        dataset.holdout_rendered.append(rendered)
        return
    dataset.train.append(rendered)
    dataset.tokens += len(rendered.ids)
    dataset.completion_tokens += rendered.completion_tokens


def _refuse(dataset: Dataset, reason: str, limits: Limits) -> None:
    dataset.refused += 1
    if len(dataset.refusals) < _SHOWN_REFUSALS:
        dataset.refusals.append(reason)
    if dataset.seen >= _MIN_SEEN:  # an endless source that gives nothing to use shall not be read for ever
        _check_refused(dataset, limits)


def _check_refused(dataset: Dataset, limits: Limits) -> None:
    if dataset.refused > limits.max_skipped_fraction * dataset.seen:
        raise TooManyBadRecordsError(
            f"{dataset.refused} of {dataset.seen} samples cannot be trained on and data.max_skipped_fraction allows "
            f"{limits.max_skipped_fraction:.0%}; first: {dataset.refusals[0]}. Mend the source, or raise "
            "training.max_seq_length where they are too long"
        )


def _check(dataset: Dataset, limits: Limits) -> None:
    _check_refused(dataset, limits)
    if not dataset.train:
        raise NothingToLearnError(
            f"{dataset.seen} samples were streamed and none is left to train on: {len(dataset.holdout)} are held out, "
            f"{dataset.refused} cannot be used; give more samples, or lower gate.holdout_fraction"
        )
