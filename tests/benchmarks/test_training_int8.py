"""The benchmark of training beside 8 bits, on the tiny base: that it trains both alike and writes its targets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import training_int8


def test_both_bases_take_the_same_steps_and_the_targets_are_written(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(training_int8, "BASE", str(tiny_base_folder))
    monkeypatch.setattr(training_int8, "ROUNDS", 1)
    monkeypatch.setattr(training_int8, "STEPS_PER_ROUND", 1)
    results = tmp_path / "results.json"
    training_int8.run(console=Console(file=io.StringIO()), results=results)
    rows = {row["measure"]: row for row in json.loads(results.read_text())["rows"]}
    assert rows["int8 base: training"]["target"] == 1.0
    assert rows["int8 base: training, by processor time"]["figure"] > 0
    assert 0.5 < rows["int8 base: linear layers"]["ratio"] < 0.55
    loss = rows["int8 base: holdout loss after 2 steps"]
    assert loss["figure"] == pytest.approx(loss["peer_figure"], rel=0.05)
    assert loss["figure"] != loss["peer_figure"]
