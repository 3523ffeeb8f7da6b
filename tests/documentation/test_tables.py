"""The README's tables are generated, and a check notices when they are not what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from adapter_service.connectors.registry import KINDS
from adapter_service.documentation import README, ROOT, tables
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.settings.sections import SECTIONS


def test_every_setting_and_kind_is_in_the_readme() -> None:
    readme = README.read_text()
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            assert f"`{section}.{key}`" in readme
    for kind in KINDS:
        assert f"| `{kind}` |" in readme


def test_every_setting_has_the_comment_of_its_file() -> None:
    rows = tables._settings().splitlines()[2:]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_changed_table_is_noticed_and_mended() -> None:
    text = "<!-- generated: connectors -->\nstale\n<!-- end -->"
    made = tables.generated(text)
    assert "stale" not in made
    assert tables.generated(made) == made


def test_the_commands_of_the_readme_exist() -> None:
    from adapter_service.cli.main import app

    readme = README.read_text()
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    assert set(re.findall(r"`adapter-service (\w+)", readme)) <= known


RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_the_demonstrations_table_has_every_sentence_and_its_answer() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "demo_commands.json").read_text())["rows"]
    shown = tables._demo()
    assert all(f"| {row['text']} | `{row['answer']}` |" in shown for row in rows)
    assert shown.count("| **no** |") == sum(not row["right"] for row in rows)


@pytest.mark.parametrize("path", [path for path in RESULTS if path.stem != "demo_commands"], ids=lambda p: p.stem)
def test_every_row_of_a_results_file_is_shown_with_its_target(path: Path) -> None:
    rows = json.loads(path.read_text())["rows"]
    shown = tables._measured(path.stem)
    for row in rows:
        assert f"| {row['measure']} |" in shown
    assert shown.count("| **no** |") == sum(row["met"] is False for row in rows)


def test_the_training_table_has_the_judged_rows_of_all_files_and_says_once_where_they_are_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert "Nothing was measured" in tables._several("training*")
    for name in ("training_a", "training_b"):
        rows = [
            Result(f"{name}, fast: speed", 300.0, "tokens/s, median of 3", "the peer", 120.0, 2.5, 3.5, met=False),
            Result(f"{name}, fast: memory", 30.0, "MiB", "the peer", 120.0, 0.25, 0.5, met=True),
            Result(f"{name}, fast: memory", 30.0, "MiB", "another peer", 120.0, 0.25),
            Result(f"{name}, fast: share", 0.4, "of 1"),
            Result(f"{name}, fast: speed", 300.0, "tokens/s", "the tuned peer", 100.0, 3.0, 2.5, met=True),
        ]
        write_results(tmp_path / "benchmarks" / "results" / f"{name}.json", rows, checkout=tmp_path)
    shown = tables._several("training*")
    for name in ("training_a", "training_b"):
        assert (
            f"| **{name}, fast** | speed | 300 tokens/s | 120, the peer | 2.500 | ≥ 3.5 | **no** |\n"
            "|  | speed | 300 tokens/s | 100, the tuned peer | 3.000 | ≥ 2.5 | yes |\n"
            "|  | memory | 30 MiB | 120, the peer | 0.250 | ≤ 0.5 | yes |\n"
            "|  | share | 0.4 of 1 |  |  |  |  |\n"
        ) in shown
    assert "another peer" not in shown
    assert shown.count("Measured at commit") == 1
    other = tmp_path / "benchmarks" / "results" / "training_b.json"
    other.write_text(other.read_text().replace('"cores": "', '"cores": "9'))
    assert "training_b: Measured at commit" in tables._several("training*")


def test_plots_of_training_are_shown_where_they_were_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks" / "results"
    write_results(folder / "training_a.json", [Result("a: share", 0.4, "of 1")], checkout=tmp_path)
    assert "![" not in tables._several("training*", plotted="loss against time")
    (folder / "training_a.png").touch()
    assert "![training_a: loss against time](benchmarks/results/training_a.png)\n" in tables._several(
        "training*", plotted="loss against time"
    )
