"""The samples of one run: streamed once, rendered to tokens, with a holdout set aside by hash.

A sample's hash decides which side it is on, so the holdout is the same whatever the order, the
paraphrase or the number of samples, and no later run of the same corpus trains on it either.
All of it is kept in memory, at most `max_bytes`: a source of any size can be read from.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from adapter_service.errors import InvalidSampleError, NothingToLearnError, TooManyBadRecordsError
from adapter_service.rendering import RenderedSample, Renderer
from adapter_service.samples import Sample, is_held_out

# Token ids are kept as 32-bit integers; the objects around those of one sample take the rest (measured).
ID_TYPE, BYTES_PER_ID = "i", 4
BYTES_PER_SAMPLE, _BYTES_PER_TEXT = 200, 700
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
    first reasons; `stopped_by` says why the stream was left before its end. `size_bytes` is what the
    samples take in memory, and at most what they take on disk.
    """

    train: list[RenderedSample] = field(default_factory=list)
    holdout: list[Sample] = field(default_factory=list)
    holdout_rendered: list[RenderedSample] = field(default_factory=list)
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    stopped_by: str | None = None
    tokens: int = 0
    completion_tokens: int = 0
    size_bytes: int = 0

    @property
    def seen(self) -> int:
        return len(self.train) + len(self.holdout) + self.refused

    @property
    def samples_hash(self) -> str:
        """Changes with the tokens trained on, their order, and where the completions begin."""
        digest = hashlib.sha256()
        for sample in self.train:
            digest.update(array(ID_TYPE, (sample.completion_start, len(sample.ids))).tobytes())
            digest.update(array(ID_TYPE, sample.ids).tobytes())
        return digest.hexdigest()

    def train_on(self, sample: RenderedSample) -> None:
        self.train.append(_compact(sample))
        self.tokens += len(sample.ids)
        self.completion_tokens += sample.completion_tokens
        self.size_bytes += size_of(sample)

    def hold_out(self, sample: Sample, rendered: RenderedSample) -> None:
        self.holdout.append(sample)
        self.holdout_rendered.append(_compact(rendered))
        self.size_bytes += size_of(rendered, sample)


def size_of(rendered: RenderedSample, kept_text: Sample | None = None) -> int:
    """Bytes that a sample takes in memory; on disk it takes fewer."""
    text = _BYTES_PER_TEXT + len(kept_text.to_json()) if kept_text else 0
    return BYTES_PER_SAMPLE + BYTES_PER_ID * len(rendered.ids) + text


def _compact(sample: RenderedSample) -> RenderedSample:
    """The same with its tokens in an array: a tuple of Python's integers takes ten times the memory."""
    return RenderedSample(array(ID_TYPE, sample.ids), sample.completion_start)


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


def collect(stream: Iterable[Sample], renderer: Renderer, limits: Limits, *, into: Dataset | None = None) -> Dataset:
    """Read until `max_samples` are there to train on, or the stream ends, or memory's share is used.

    `into` is what an earlier attempt collected of the same stream; the rest is added to it.

    Raises:
        TooManyBadRecordsError: too large a share is longer than `max_tokens`.
        NothingToLearnError: no sample is left to train on.
    """
    dataset = Dataset() if into is None else into
    for sample in stream:
        _add(dataset, sample, renderer, limits)
        if dataset.stopped_by:
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
    if dataset.size_bytes + size_of(rendered, sample if held_out else None) > limits.max_bytes:
        dataset.stopped_by = f"data.max_cache_mb: {len(dataset.train)} samples fill it"
    elif held_out:
        dataset.hold_out(sample, rendered)
    else:
        dataset.train_on(rendered)
        if len(dataset.train) >= limits.max_samples:
            dataset.stopped_by = f"data.max_train_samples = {limits.max_samples}"


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
