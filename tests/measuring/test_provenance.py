"""A results file says where its figures come from, and is never half there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from adapter_service.measuring import provenance
from adapter_service.measuring.markdown import escape, table


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "code.py").write_text("1\n")
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*name, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def test_the_commit_is_marked_when_something_else_is_in_the_folder(checkout: Path) -> None:
    clean = provenance.commit(checkout)
    (checkout / "code.py").write_text("2\n")
    assert provenance.commit(checkout) == f"{clean} + uncommitted changes"


def test_the_programs_own_output_does_not_mark_the_commit(checkout: Path) -> None:
    clean = provenance.commit(checkout)
    (checkout / "smoke_results.md").write_text("10 of 10\n")
    provenance.write_results(checkout / "benchmarks/results/smoke.json", [], checkout=checkout)
    assert provenance.commit(checkout) == clean


def test_a_folder_without_history_has_no_known_commit(tmp_path: Path) -> None:
    assert provenance.commit(tmp_path) == "unknown"


def test_a_results_file_has_the_four_parts_and_the_eight_columns(tmp_path: Path) -> None:
    path = tmp_path / "results" / "smoke.json"
    provenance.write_results(path, [provenance.Result("OK", 10, "of 10", target=10, met=True)], checkout=tmp_path)
    document = json.loads(path.read_text())
    assert set(document) == {"commit", "machine", "versions", "rows"}
    columns = ["measure", "figure", "unit", "peer", "peer_figure", "ratio", "target", "met"]
    assert list(document["rows"][0]) == columns


def test_a_cell_cannot_break_out_of_its_table() -> None:
    assert escape("a|b\n<b> *c*") == r"a\|b &lt;b&gt; \*c\*"
    assert table(("x",), [(None,), (True,), (1.25,)]).splitlines()[2:] == ["| – |", "| yes |", "| 1.2 |"]
