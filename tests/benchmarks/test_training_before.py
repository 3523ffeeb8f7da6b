"""The benchmark of another commit's training: two checkouts train the same, in turns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import training_before


def test_two_checkouts_of_the_same_code_end_at_the_same_loss(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ADAPTER_MODEL__BASE", str(tiny_base_folder))
    monkeypatch.setattr(training_before, "_check_out", lambda _, folder: folder.symlink_to(Path.cwd()))
    monkeypatch.setattr(training_before, "QUICK", {"rounds": 2, "steps_per_round": 2})
    results, console = tmp_path / "results.json", Console(file=io.StringIO())
    training_before.run(full=False, console=console, results=results)
    time, loss = json.loads(results.read_text())["rows"]
    assert time["figure"] > 0
    assert loss["measure"] == "make run's training: holdout loss after 4 steps"
    assert loss["ratio"] == pytest.approx(1, abs=1e-4)
    assert loss["met"]


def test_a_commit_that_the_clone_does_not_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_before, "BEFORE", "0" * 40)
    with pytest.raises(SystemExit, match="a clone with its whole history"):
        training_before.run(full=False, console=Console(file=io.StringIO()), results=tmp_path / "results.json")


def test_the_ratio_of_times_is_the_median_of_the_rounds() -> None:
    seconds = {"now": [0.0, 1.0, 3.0, 4.0], "before": [0.0, 2.0, 4.0, 14.0]}
    size = {"rounds": 3, "steps_per_round": 2}
    time, loss = training_before.rows_of(seconds, {"now": 1.0, "before": 1.0}, size)
    assert (time.figure, time.peer_figure, time.ratio, time.met) == (1.0, 2.0, 0.5, True)
    assert loss.met
