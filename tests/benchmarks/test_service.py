"""What the service's benchmark makes of its measurements."""

from __future__ import annotations

import pytest

from benchmarks.service import SETTLED, _health_rows, _memory_rows, _Probed

CALLS = 1000


def test_memory_that_grows_with_every_call_misses_the_target_and_its_slope_is_told() -> None:
    flat = [900.0] * SETTLED + [950.0] * (CALLS - SETTLED)
    leaking = [call / 32 + memory for call, memory in enumerate(flat)]
    _, growth, slope = _memory_rows(leaking)
    assert growth.met is False
    assert slope.figure == pytest.approx(32.0)


def test_memory_that_fills_caches_first_and_then_stays_meets_it() -> None:
    filling = [500.0 + 2 * min(call, SETTLED - 50) for call in range(CALLS)]
    last, growth, slope = _memory_rows(filling)
    assert (last.ratio, growth.figure, growth.met) == (1.0, 0.0, True)
    assert slope.figure == pytest.approx(0.0)


def test_the_slowest_hundredth_decides() -> None:
    idle = _Probed([2.0] * 100)
    p50, p99, slowest, answers = _health_rows(idle, _Probed([5.0] * 98 + [60.0, 400.0], answers=7))
    assert (p50.figure, p50.peer_figure, p50.met) == (5.0, 2.0, None)
    assert (p99.figure, p99.met) == (400.0, False)
    assert (slowest.figure, answers.figure) == (400.0, 7)
    assert _health_rows(idle, _Probed([5.0] * 100))[1].met is True
