"""How far a run is: lines where the output is a file or a pipe, a bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from adapter_service.cli import progress as module
from adapter_service.cli.progress import run_progress


def shown(*, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, highlight=False)
    with run_progress(console) as progress:
        progress.show("streaming", "10 samples")
        progress.show("training", "loss 2.000", completed=1, total=4)
        progress.show("training", "loss 1.500", completed=2, total=4)
    return output.getvalue()


def test_a_pipe_gets_a_line_for_each_stage_and_then_one_now_and_then() -> None:
    assert shown(terminal=False).splitlines() == ["streaming  10 samples", "training    25%  loss 2.000"]


def test_a_pipe_gets_a_line_of_the_same_stage_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    assert shown(terminal=False).splitlines()[1:] == ["training    25%  loss 2.000", "training    50%  loss 1.500"]


def test_a_terminal_gets_a_bar_that_stands_at_the_last_figures() -> None:
    last = shown(terminal=True).splitlines()[-2]
    assert "training" in last
    assert "50%" in last
    assert "loss 1.500" in last
