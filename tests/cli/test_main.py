"""The command line, as its user sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapter_service.cli.main import app

runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


def test_help_names_every_command() -> None:
    shown = runner.invoke(app, ["--help"]).output
    for command in ("serve", "check", "train", "smoke", "evaluate", "quickstart", "sources"):
        assert command in shown


def test_a_misspelt_setting_ends_with_the_line_and_a_hint(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.yaml"
    config.write_text("lora:\n  alhpa: 16\n")
    result = runner.invoke(app, ["check", "--config", str(config)])
    assert result.exit_code == 1
    assert "line 2" in result.output
    assert "did you mean 'alpha'" in result.output


def test_sources_are_listed_with_their_place() -> None:
    result = runner.invoke(app, ["sources"])
    assert result.exit_code == 0
    assert "multilingual_corpus" in result.output
    assert "mcp_connectors.yml:" in result.output


def test_what_stands_in_brackets_is_shown(tmp_path: Path) -> None:
    sources = tmp_path / "mine [old].yml"
    sources.write_text(f"sources:\n  mine: {{kind: local, path: {tmp_path}/texts.jsonl}}\n")
    config = tmp_path / "adapter_config.yaml"
    config.write_text("data: {source: mine}\n")
    shown = runner.invoke(app, ["sources", "--config", str(config), "--sources", str(sources)])
    assert "mine [old].yml:2" in shown.output


def test_evaluating_before_anything_was_trained_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path))
    result = runner.invoke(app, ["evaluate"])
    assert result.exit_code == 1
    assert "nothing was trained yet" in result.output


def test_smoke_without_a_service_says_how_to_start_one(tmp_path: Path) -> None:
    result = runner.invoke(app, ["smoke", "--url", "http://127.0.0.1:9", "--output", str(tmp_path / "smoke.md")])
    assert result.exit_code == 1
    assert "adapter-service serve" in result.output
    assert not (tmp_path / "smoke.md").exists()
