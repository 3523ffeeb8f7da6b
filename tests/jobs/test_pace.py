"""The estimate of a job's time: each kind of training at its own pace, or at the one that is most like it."""

from __future__ import annotations

import pytest

from adapter_service.jobs.pace import Pace, TrainingKind, work_of
from tests.jobs.bench import toy_settings

FAST = TrainingKind("fast", "all", "all")
SAMPLED = TrainingKind("fast", "sampled", "all")
SMALL = TrainingKind("small", "all", "all")
TOP_HALF = TrainingKind("fast", "all", "top-half")


def seconds_for(pace: Pace, asked: TrainingKind) -> float | None:
    """What the estimate for a training of `asked` takes for each of its tokens."""
    settings = toy_settings(
        training={"preset": asked.preset}, loss={"vocabulary": asked.loss_vocabulary}, lora={"layers": asked.layers}
    )
    work = work_of(settings)
    assert work.kind == asked
    seconds = pace.training_seconds(work)
    return None if seconds is None else seconds / (work.seen * pace.tokens_per_sample)


def paced(*measured: tuple[TrainingKind, float]) -> Pace:
    pace = Pace()
    for kind, seconds_per_token in measured:
        pace.trained(kind, 1000, 10, 1000 * seconds_per_token)
    return pace


def test_before_the_first_training_no_kind_has_a_pace() -> None:
    assert seconds_for(Pace(), FAST) is None


def test_each_kind_of_training_keeps_its_own_pace() -> None:
    pace = paced((FAST, 3.0), (SAMPLED, 2.0), (SMALL, 5.0), (TOP_HALF, 1.0))
    assert [seconds_for(pace, kind) for kind in (FAST, SAMPLED, SMALL, TOP_HALF)] == [3.0, 2.0, 5.0, 1.0]


def test_of_one_kind_the_last_training_counts() -> None:
    assert seconds_for(paced((FAST, 3.0), (SMALL, 5.0), (FAST, 4.0)), FAST) == 4.0


@pytest.mark.parametrize(
    ("asked", "pace"),
    [
        (TrainingKind("small", "sampled", "all"), 5.0),
        (TrainingKind("fast", "sampled", "top-half"), 1.0),
        (TrainingKind("small", "all", "top-half"), 5.0),
    ],
)
def test_a_kind_that_was_never_measured_has_the_pace_of_the_newest_that_is_most_like_it(
    asked: TrainingKind, pace: float
) -> None:
    assert seconds_for(paced((SAMPLED, 2.0), (TOP_HALF, 1.0), (SMALL, 5.0)), asked) == pace


def test_any_pace_is_better_than_none() -> None:
    assert seconds_for(paced((TrainingKind("small", "sampled", "top-half"), 7.0)), FAST) == 7.0


def test_the_preset_that_auto_comes_to_is_taken_to_be_the_one_it_came_to_last() -> None:
    auto = TrainingKind("auto", "all", "all")
    assert seconds_for(paced((SMALL, 5.0), (FAST, 3.0)), auto) == 3.0
    assert seconds_for(paced((FAST, 3.0), (SMALL, 5.0)), auto) == 5.0
    assert seconds_for(paced((FAST, 3.0), (TOP_HALF, 1.0)), auto) == 3.0
