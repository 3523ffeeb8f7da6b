"""What the training benchmarks make of their measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from adapter_service.measuring.provenance import Result
from benchmarks.training import BASES, Ran, Round, label, rounds_of, rows_of
from benchmarks.training_plots import plot_losses
from benchmarks.training_run import HF_FLOAT32, HF_SINGLE, HF_TUNED, OURS, TRL, Job
from benchmarks.training_start import row_of

BASE = BASES["smollm2"]


def ran(
    speeds: Sequence[float], *, grown_mb: float = 100.0, holdout: float = 2.0, steps: int = 8, **more: float
) -> Ran:
    rounds = [Round(tokens=1000, seconds=1000 / speed, processor_seconds=1.0) for speed in speeds]
    return Ran(rounds, steps, grown_mb, [3.0] * (len(rounds) - 1) + [holdout], **more)


def row(rows: Sequence[Result], measure: str, peer: str) -> Result:
    (found,) = (row for row in rows if row.measure.endswith(measure) and peer in str(row.peer))
    return found


def test_reports_from_the_beginning_become_what_each_round_took() -> None:
    said = [
        {"tokens": 100, "seconds": 2.0, "processor_seconds": 3.0, "grown_mb": 5.0},
        {"tokens": 250, "seconds": 5.0, "processor_seconds": 9.0, "grown_mb": 7.0},
    ]
    assert rounds_of(said) == [Round(100, 2.0, 3.0), Round(150, 3.0, 6.0)]


def test_a_speed_is_compared_within_its_round_and_the_median_of_the_rounds_is_judged() -> None:
    # A busy second half of the machine slows both: the ratio of the medians would be 10 / 4.
    measured = {"ours_fast": ran([10, 10, 5, 20]), TRL: ran([4, 4, 1, 2])}
    speed = row(rows_of(BASE, measured, 3.0), "fast: speed", "TRL")
    assert (speed.figure, speed.peer_figure) == (10, 3)
    assert speed.ratio == pytest.approx((2.5 + 5) / 2)
    assert (speed.target, speed.met) == (3.5, True)
    slower = {"ours_fast": ran([10, 10, 5, 20]), TRL: ran([4, 4, 2, 8])}
    assert row(rows_of(BASE, slower, 3.0), "fast: speed", "TRL").met is False


def test_a_speed_says_what_it_is_the_median_of_and_the_whole_run_stands_beside_it_unjudged() -> None:
    measured = {"ours_fast": ran([10, 40], steps=8), HF_FLOAT32: ran([4, 4], steps=2)}
    rows = rows_of(BASE, measured, 3.0)
    assert row(rows, "fast: speed", "defaults").unit == "tokens/s, median of 2 rounds of 4 steps, the peer's of 1"
    whole = row(rows, "speed of the whole run", "defaults")
    assert [whole.figure, whole.peer_figure, whole.ratio] == pytest.approx([16, 4, 4])
    assert whole.met is None


def test_the_loss_that_all_begin_with_is_told() -> None:
    (found,) = (row for row in rows_of(BASE, {"ours_fast": ran([10])}, 3.25) if "before training" in row.measure)
    assert (found.figure, found.target) == (3.25, None)


def test_memory_and_loss_may_be_so_much_and_no_more() -> None:
    measured = {
        "ours_fast": ran([10], grown_mb=70, holdout=2.02),
        TRL: ran([1], grown_mb=150, holdout=2.0),
        HF_TUNED: ran([1], grown_mb=100, holdout=1.99),
    }
    rows = rows_of(BASE, measured, 3.0)
    assert row(rows, "memory over the loaded base", "TRL").met is False
    assert row(rows, "memory over the loaded base", "by length").met is True
    assert row(rows, "loss after 8 steps", "TRL").met is True
    assert row(rows, "loss after 8 steps", "by length").met is False


def test_a_loss_after_fewer_steps_is_not_compared_and_what_has_no_target_is_not_judged() -> None:
    rows = rows_of(BASE, {"ours_fast": ran([10], steps=16), HF_FLOAT32: ran([1], steps=4)}, 3.0)
    assert [row.measure for row in rows if "loss after" in row.measure] == []
    assert {row.met for row in rows} == {None}


def test_the_share_of_the_peak_is_of_the_time_of_all_rounds() -> None:
    rows = rows_of(BASE, {"ours_fast": ran([500, 1000], gflop=150.0, peak_gflops=100.0)}, 3.0)
    share = row(rows, "at products alone", "None")
    assert share.figure == pytest.approx(0.5)
    assert share.met is False


def test_a_peak_that_was_measured_while_the_machine_did_something_else_makes_no_share_better() -> None:
    measured = {
        "ours_fast": ran([1000], gflop=100.0, peak_gflops=200.0),
        "ours_small": ran([1000], gflop=100.0, peak_gflops=125.0),
    }
    shares = [row.figure for row in rows_of(BASE, measured, 3.0) if "flops" in row.measure]
    assert shares == pytest.approx([0.5, 0.5])


def test_an_estimate_of_memory_may_be_off_by_so_much_either_way() -> None:
    for estimated, met in ((84.0, False), (86.0, True), (114.0, True), (116.0, False)):
        # A peer's memory is no matter of the estimate's.
        measured = {"ours_small": ran([500], grown_mb=100, estimated_mb=estimated), TRL: ran([50], grown_mb=900)}
        (found,) = (row for row in rows_of(BASE, measured, 3.0) if "estimate" in row.measure)
        assert found.met is met


def test_trainer_by_default_may_be_given_fewer_steps_than_the_others() -> None:
    job = Job("base", "folder", "bases", 4, 4, 1, tuned_batch=1, default_batch=8)
    assert (job.steps(HF_TUNED), job.steps(TRL), job.steps(HF_FLOAT32)) == (16, 16, 4)


def test_a_curve_has_the_holdout_loss_at_the_time_that_was_trained_until_then() -> None:
    assert ran([500, 250], holdout=2.5).curve == [(2.0, 3.0), (6.0, 2.5)]


def test_a_plot_is_drawn_of_all_trainers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trainers = [*OURS, TRL, HF_TUNED, HF_SINGLE, HF_FLOAT32]
    plot_losses(
        tmp_path / "plot.png", {label(name, BASE): [(0.0, 3.5), *ran([9, 8]).curve] for name in trainers}, title="base"
    )
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_step_is_compared_round_by_round() -> None:
    row = row_of([(1.0, 20.0), (1.0, 8.0), (9.0, 100.0)])
    assert row.ratio == pytest.approx(0.09)
    assert row.met is True
    assert row_of([(3.0, 20.0)]).met is False
