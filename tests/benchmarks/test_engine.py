"""The engine's benchmark: what it makes of its measurements, and on a tiny base that it measures at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from adapter_service.measuring.provenance import Result
from benchmarks import (
    engine_batches,
    engine_first_token,
    engine_http,
    engine_memory,
    engine_registered,
    engine_slots,
    engine_training,
)
from benchmarks.engine_service import ServiceHere, service_here
from benchmarks.engine_size import SIZES, Size

QUICK = SIZES["quick"]
TINY = Size(rounds=1, tokens=4, single=2, loops=1, registered=3, train_seconds=0.1, pairs=2)


def of(rows: list[Result], part: str) -> Result:
    (found,) = (row for row in rows if part in row.measure or part in str(row.peer))
    return found


def test_requests_of_many_adapters_are_held_against_peft_and_against_one_adapter() -> None:
    speeds = engine_batches.Speeds([90.0, 80.0, 30.0], [100.0, 80.0, 40.0], [30.0, 20.0, 10.0], peft_threads=1)
    rows = engine_batches.rows_of(speeds, QUICK)
    assert (of(rows, "PEFT generate").ratio, of(rows, "PEFT generate").met) == (3.0, True)
    assert (of(rows, "on one adapter").ratio, of(rows, "on one adapter").met) == (0.9, True)
    slower = engine_batches.Speeds([90.0, 80.0, 30.0], [110.0, 100.0, 40.0], [31.0, 30.0, 10.0], peft_threads=1)
    assert not any(row.met for row in engine_batches.rows_of(slower, QUICK))


def test_a_first_token_may_take_a_tenth_longer_and_fifty_milliseconds_from_disk() -> None:
    taken = {"base": [100.0] * 3, "resident": [109.0] * 3, "read": [149.0] * 3, "cold": [300.0] * 3}
    assert [row.met for row in engine_first_token.first_token_rows(taken)] == [True, True, None]
    taken |= {"resident": [111.0] * 3, "read": [151.0] * 3}
    assert [row.met for row in engine_first_token.first_token_rows(taken)] == [False, False, None]


def test_more_adapters_than_slots_may_make_the_median_three_times_as_long() -> None:
    slowest = {16: [990.0, 991.0], 8: [330.0, 331.0]}
    rows = engine_slots.slot_rows({16: [290.0, 900.0], 8: [100.0, 301.0]}, slowest, [12, 14], QUICK)
    assert [(row.met, row.figure) for row in rows] == [(True, 595), (None, 990.5), (None, 330.5), (None, 13)]
    assert engine_slots.slot_rows({16: [310.0], 8: [100.0]}, {16: [1.0], 8: [1.0]}, [12], QUICK)[0].met is False


def test_a_thousand_registered_adapters_may_cost_a_tenth() -> None:
    few = {"tokens_per_second": [100.0], "first_token_ms": [50.0], "memory_mb": [900.0], "resident_mb": [19.0]}
    many = {"tokens_per_second": [91.0], "first_token_ms": [54.0], "memory_mb": [980.0], "resident_mb": [600.0]}
    assert [row.met for row in engine_slots.registered_rows({"few": few, "many": many}, 1000)] == [True] * 3 + [None]
    many |= {"tokens_per_second": [89.0], "first_token_ms": [56.0], "memory_mb": [1000.0]}
    assert [row.met for row in engine_slots.registered_rows({"few": few, "many": many}, 1000)] == [False] * 3 + [None]


def test_training_beside_requests_is_held_against_the_same_steps_alone() -> None:
    rounds = engine_training.Rounds(
        alone=[100.0], seldom=[71.0], never_ceasing=[21.0], beside=[100.0], share=[0.21],
        quiet_p95=[0.05], training_p95=[0.09], layer_p95=[0.05],
    )  # fmt: skip
    assert [row.met for row in engine_training.rows_of(rounds, 0.2, 5)] == [True, None, True, True, True]
    rounds.seldom, rounds.never_ceasing, rounds.share, rounds.training_p95 = [69.0], [19.0], [0.19], [0.11]
    assert [row.met for row in engine_training.rows_of(rounds, 0.2, 5)] == [False, None, False, False, False]


def test_speed_beside_requests_is_of_whole_periods() -> None:
    """The second period of 10 s is not over: its request is not held against three seconds of training."""
    ran = engine_training.Ran(tokens=[60, 60, 60], seconds=[6.0, 5.0, 3.0])
    assert ran.speed_in_periods(10.0) == pytest.approx((60 + 60 * 4 / 5) / 10)
    assert ran.speed_in_periods(20.0) == ran.speed() == pytest.approx(180 / 14)


def test_memory_is_judged_both_as_each_process_has_it_and_as_the_machine_has() -> None:
    rows = engine_memory.rows_of((590.0, 610.0), (1000.0, 1000.0))
    assert [row.met for row in rows] == [True, False]


@pytest.fixture
def here(tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceHere]:
    monkeypatch.delenv("ADAPTER_TEST_BASES", raising=False)  # no setting
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path / "settings"))
    state = tmp_path / "state"
    state.mkdir()
    with service_here(state, str(tiny_base_folder), adapters=18) as service:
        yield service


def test_on_a_tiny_base_everything_is_measured(here: ServiceHere) -> None:
    console = Console(file=io.StringIO())
    first = engine_first_token.measure(here, TINY, console)
    assert all(row.figure > 0 for row in first if row.measure.startswith("first token, "))
    assert of(engine_http.measure(here, TINY, console), "over HTTP").figure > 0
    slots = engine_slots.measure(here, TINY, console)
    assert of(slots, "adapters of rank").figure > 0  # sixteen do not fit into eight
    training = engine_training.measure(here, TINY, console)
    assert 0 < of(training, "training's share").figure < 1


def test_answers_that_part_from_the_peers_where_nothing_is_near_are_no_measurement(
    here: ServiceHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = here.files[:2]
    asks = [here.ask(number, one, 3) for number, one in enumerate(files)]
    asks = [replace(ask, sampling=replace(ask.sampling, return_tokens=True)) for ask in asks]
    trails = [here.engine.submit(ask).result().only.tokens for ask in asks]
    ours = [trail.ids for trail in trails if trail is not None]
    assert engine_batches.compare(here, files, ours, 3) == 0
    other = [[*ids[:2], (ids[2] + 1) % 200] for ids in ours]
    monkeypatch.setattr(engine_batches, "NEAR", 1000.0)
    assert engine_batches.compare(here, files, other, 3) == 2
    monkeypatch.setattr(engine_batches, "NEAR", 0.0)
    with pytest.raises(SystemExit, match="token 2 of an answer"):
        engine_batches.compare(here, files, other, 3)


def test_few_and_many_registered_adapters_are_asked_for_by_name(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADAPTER_TEST_BASES", raising=False)  # no setting
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path / "settings"))
    state = tmp_path / "state"
    state.mkdir()
    found = engine_registered.measured(str(tiny_base_folder), state, 3, rounds=1, loops=1)
    assert found["many"]["resident_mb"][0] > 2 * found["few"]["resident_mb"][0]
    assert found["few"]["tokens_per_second"][0] > 0
