"""The command line, as its user sees it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
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


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [(["--port", "9123"], "http://127.0.0.1:9123"), (["--host", "::1", "--port", "9123"], "http://[::1]:9123")],
)
def test_signed_urls_name_the_address_that_is_listened_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], wanted: str
) -> None:
    address, shown = _served(tmp_path, monkeypatch, arguments)
    assert address == wanted
    assert shown == wanted


def test_a_port_of_0_is_chosen_before_anybody_is_told_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, shown = _served(tmp_path, monkeypatch, ["--port", "0"])
    assert address == shown
    assert not address.endswith(":0")


def _served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> tuple[str, str]:
    """Where `serve` listens, and what its signed URLs begin with."""
    served: dict[str, Any] = {}
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(uvicorn, "run", lambda application, **at: served.update(at, application=application))
    result = runner.invoke(app, ["serve", *arguments])
    assert result.exit_code == 0, result.output
    services = served["application"].state.services
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    key = "adapters/kitchen/base/hash/time/adapter.zip"
    url = urlsplit(services.hub.artifacts.url(key, node_id="kitchen", expires_at=expires_at))
    services.database.close()
    host = f"[{served['host']}]" if ":" in served["host"] else served["host"]
    return f"http://{host}:{served['port']}", f"{url.scheme}://{url.netloc}"
