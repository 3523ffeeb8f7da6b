"""The kernels' benchmark: what it makes of its measurements, and what it hands to llama.cpp."""

from __future__ import annotations

import pytest
import torch

from benchmarks import kernels, kernels_sampling
from benchmarks.kernels import EXACT, INT8, LLAMA, PEFT


def test_a_prompt_is_held_against_both_peers() -> None:
    speeds = {EXACT: {1: [300.0, 310.0]}, PEFT: {1: [100.0, 100.0]}, LLAMA: {1: [150.0, 155.0]}}
    rows = list(kernels._prefill(speeds))
    assert [(row.peer, row.ratio, row.met) for row in rows] == [(PEFT, pytest.approx(3.05), None), (LLAMA, 2.0, True)]


def test_requests_together_are_held_against_both_peers_by_both_kernels() -> None:
    speeds = {name: {8: [tokens]} for name, tokens in ((EXACT, 160.0), (INT8, 200.0), (PEFT, 50.0), (LLAMA, 81.0))}
    found = {(row.measure, row.peer): row for row in kernels._together(speeds)}
    ratios = {key: row.ratio for key, row in found.items()}
    assert ratios == pytest.approx(
        {(EXACT, PEFT): 3.2, (INT8, PEFT): 4.0, (EXACT, LLAMA): 160 / 81, (INT8, LLAMA): 200 / 81}
    )
    assert {key: row.met for key, row in found.items()} == {
        (EXACT, PEFT): False, (INT8, PEFT): True, (EXACT, LLAMA): False, (INT8, LLAMA): True,
    }  # fmt: skip


def test_without_llama_cpp_there_are_the_other_rows() -> None:
    speeds = {EXACT: {8: [160.0]}, INT8: {8: [200.0]}, PEFT: {8: [50.0]}}
    assert [row.peer for row in kernels._together(speeds)] == [PEFT, PEFT]


def test_sampling_is_measured() -> None:
    (row,) = kernels_sampling.measure(torch.randn(5000))
    assert row.measure == "a token by top-p 0.9 from 5,000"
    assert row.figure > 0
