"""The benchmark of a sampled vocabulary, on the tiny base: three runs that differ; and what is a foreign word."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adapter_service.languages import find
from benchmarks import training_vocabulary
from benchmarks.training_vocabulary import Size, foreign_words


@pytest.fixture
def tiny(tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bytes as tokens, and few held-out samples; the path of the results."""
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ADAPTER_MODEL__BASE", str(tiny_base_folder))
    monkeypatch.setenv("ADAPTER_LOSS__SAMPLED_TOKENS", "64")
    monkeypatch.setattr(training_vocabulary, "QUICK", Size(samples=56, rounds=2, held_out=4, answers_per_language=1))
    return tmp_path / "results.json"


def measured(results: Path) -> dict[str, dict[str, Any]]:
    training_vocabulary.run(full=False, console=Console(file=io.StringIO()), results=results)
    return {row["measure"]: row for row in json.loads(results.read_text())["rows"]}


def test_both_take_the_same_steps_a_third_takes_the_same_time_and_all_are_judged_by_the_full_loss(tiny: Path) -> None:
    rows = measured(tiny)
    loss = rows["Sampled vocabulary: full holdout loss after 4 steps"]
    assert loss["figure"] == pytest.approx(loss["peer_figure"], rel=0.05)
    assert loss["figure"] != loss["peer_figure"]
    assert loss["target"] == 1.01
    steps = max(1, round(4 * rows["Sampled vocabulary: speed"]["ratio"]))
    in_the_same_time = rows[f"Sampled vocabulary: full holdout loss after {steps} steps, the same time"]
    assert in_the_same_time["peer_figure"] == loss["peer_figure"]
    assert rows["Sampled vocabulary: answers with a word of another script after 4 steps"]["unit"] == "of 10"


def test_a_base_whose_vocabulary_is_not_larger_is_no_base_to_compare_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTER_LOSS__SAMPLED_TOKENS", "8192")
    with pytest.raises(SystemExit, match="nothing to compare"):
        measured(tiny)


def test_a_word_of_another_script_is_foreign_unless_it_is_copied() -> None:
    hindi, japanese = find("hi"), find("ja")
    assert foreign_words("Firefox खोलें।", "Open Firefox", hindi) == []
    assert foreign_words("Firefox worden खोलें, 42।", "Open Firefox", hindi) == ["worden"]
    assert foreign_words("pageটি", "a page", find("bn")) == ["pageটি"]
    assert foreign_words("これは日本語テストです", "a test", japanese) == []
