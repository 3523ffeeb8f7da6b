"""The samples of a run: what is held out, what is left out, and where reading stops."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.errors import NothingToLearnError, TooManyBadRecordsError
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import Renderer
from adapter_service.samples import Message, Sample, is_held_out
from adapter_service.training.dataset import Dataset, Limits, collect, enough_held_out


def limits(**changes: Any) -> Limits:
    values = {
        "max_samples": 1000,
        "max_tokens": 60,
        "max_bytes": 1 << 20,
        "max_skipped_fraction": 0.1,
        "holdout_fraction": 0.3,
        "max_holdout_samples": 100,
    }
    return Limits(**{**values, **changes})


def pair(number: int, instruction: str = "Translate to Hindi") -> Sample:
    text = f"word {number}"
    return Sample(
        (Message("user", f"{instruction}: {text}"), Message("assistant", f"shabd {number}")),
        language="hi",
        metadata={"source_text": text},
    )


PAIRS = [pair(number) for number in range(100)]


@pytest.fixture
def renderer(tiny_base: BaseModel) -> Renderer:
    return Renderer(tiny_base.tokenizer)


def held_out(dataset: Dataset) -> set[str]:
    return {sample.key for sample in dataset.holdout}


def test_every_sample_is_trained_on_or_held_out_and_none_both(renderer: Renderer) -> None:
    dataset = collect(PAIRS, renderer, limits())
    trained = {tuple(sample.ids) for sample in dataset.train}
    held = {tuple(sample.ids) for sample in dataset.holdout_rendered}
    assert len(trained) + len(held) == len(PAIRS)
    assert not trained & held
    assert 15 < len(held) < 45


def test_the_holdout_is_the_same_in_any_order(renderer: Renderer) -> None:
    forwards, backwards = (collect(pairs, renderer, limits()) for pairs in (PAIRS, reversed(PAIRS)))
    assert held_out(forwards) == held_out(backwards)


def test_a_paraphrase_is_on_the_side_of_its_pair(renderer: Renderer) -> None:
    both: Iterable[Sample] = [*PAIRS, *(pair(number, "Say this in Hindi") for number in range(100))]
    dataset = collect(both, renderer, limits())
    assert len(dataset.holdout) == 2 * len(held_out(dataset))
    assert held_out(dataset) == held_out(collect(PAIRS, renderer, limits()))


@given(key=st.integers(0, 16**16 - 1), less=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_holdout_has_the_smaller_one_in_it(key: int, less: float, more: float) -> None:
    less, more = sorted((less, more))
    assert is_held_out(f"{key:016x}", less) <= is_held_out(f"{key:016x}", more)


def test_what_is_held_out_beyond_its_limit_is_not_trained_on_either(renderer: Renderer) -> None:
    unlimited, limited = (collect(PAIRS, renderer, limits(max_holdout_samples=n)) for n in (100, 5))
    assert len(limited.holdout) == len(limited.holdout_rendered) == 5
    assert limited.train == unlimited.train


def test_reading_stops_at_the_set_number_of_samples(renderer: Renderer) -> None:
    stream = iter(PAIRS)
    dataset = collect(stream, renderer, limits(max_samples=7))
    assert (len(dataset.train), dataset.stopped_by) == (7, "data.max_train_samples = 7")
    assert len(list(stream)) > 50


def test_reading_stops_when_memorys_share_is_used(renderer: Renderer) -> None:
    dataset = collect(PAIRS, renderer, limits(max_bytes=10_000))
    assert 10 < len(dataset.train) < 40
    assert 8_000 < dataset.size_bytes <= 10_000
    assert str(dataset.stopped_by).startswith("data.max_cache_mb")


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_samples_take_no_more_memory_than_is_counted(renderer: Renderer, fraction: float) -> None:
    collect(PAIRS[:10], renderer, limits(holdout_fraction=0.0))  # what the renderer keeps for itself
    tracemalloc.start()
    dataset = Dataset()
    with contextlib.suppress(NothingToLearnError):
        stream = (pair(number) for number in range(1000))
        collect(stream, renderer, limits(holdout_fraction=fraction, max_holdout_samples=1000), into=dataset)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert dataset.size_bytes / 2 < taken <= dataset.size_bytes


def test_a_stream_read_to_its_end_was_stopped_by_nothing(renderer: Renderer) -> None:
    dataset = collect(PAIRS, renderer, limits())
    assert dataset.stopped_by is None
    assert dataset.tokens == sum(len(sample.ids) for sample in dataset.train)
    assert dataset.completion_tokens == sum(sample.completion_tokens for sample in dataset.train)


def long_pair(number: int) -> Sample:
    return Sample((Message("user", "q"), Message("assistant", f"{number} " + "long " * 20)))


def test_what_is_too_long_is_counted_and_not_cut(renderer: Renderer) -> None:
    dataset = collect([*PAIRS, *map(long_pair, range(5))], renderer, limits())
    assert dataset.refused == 5
    assert max(len(sample.ids) for sample in dataset.train) < 60


def test_too_many_long_samples_are_refused_with_the_numbers(renderer: Renderer) -> None:
    with pytest.raises(TooManyBadRecordsError, match=r"12 of 112 samples .* allows 10%.* 60.*raise"):
        collect([*PAIRS, *map(long_pair, range(20))], renderer, limits())


@pytest.mark.parametrize(("samples", "share"), [(10_000, 0.02), (200, 0.15), (10, 0.5)])
def test_a_small_job_holds_out_enough_to_be_judged_by(samples: int, share: float) -> None:
    assert enough_held_out(0.02, 20, samples) == pytest.approx(share)


def test_an_endless_stream_of_unusable_samples_is_left_early(renderer: Renderer) -> None:
    read = 0

    def endless() -> Iterator[Sample]:
        nonlocal read
        while True:
            read += 1
            yield long_pair(read)

    with pytest.raises(TooManyBadRecordsError, match="first: "):
        collect(endless(), renderer, limits())
    assert read == 20


def test_nothing_left_to_train_on_is_an_error(renderer: Renderer) -> None:
    only_held_out = [sample for sample in PAIRS if is_held_out(sample.key, 0.3)]
    with pytest.raises(NothingToLearnError, match=f"none is left to train on: {len(only_held_out)} are held out"):
        collect(only_held_out, renderer, limits())


# The same tokens, of which more or fewer are learned.
ONE_TEXT_CUT_TWICE = (("q", "a\nb"), ("q\na", "b"))


def test_the_hash_of_the_samples_follows_tokens_order_and_masks(renderer: Renderer) -> None:
    def hashed(samples: list[Sample]) -> str:
        return collect(samples, renderer, limits(holdout_fraction=0.0)).samples_hash

    early, late = (
        Sample((Message("user", question), Message("assistant", answer))) for question, answer in ONE_TEXT_CUT_TWICE
    )
    assert hashed(PAIRS) == hashed(list(PAIRS))
    assert len({hashed(PAIRS), hashed(PAIRS[::-1]), hashed(PAIRS[:-1])}) == 3
    assert hashed([early]) != hashed([late])
