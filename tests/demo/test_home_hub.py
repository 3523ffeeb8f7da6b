"""A home hub from end to end: the service, an S3 server, mosquitto, and a node that is a process of its own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from adapter_service.demo import home_hub, mosquitto
from adapter_service.errors import RunFailedError
from adapter_service.settings import (
    CommandSettings,
    ModelSettings,
    SecuritySettings,
    ServingSettings,
    Settings,
    StorageSettings,
)
from tests.api.hubs import LENIENT, alarm, lights
from tests.mosquitto import program


@pytest.fixture
def settings(tmp_path: Path, tiny_base_folder: Path) -> Settings:
    return Settings(
        model=ModelSettings(base=str(tiny_base_folder), device="cpu", dtype="float32"),
        commands=CommandSettings.model_validate(LENIENT),
        serving=ServingSettings(),
        security=SecuritySettings(),
        storage=StorageSettings(state_dir=tmp_path / "state"),
    )


@pytest.mark.parametrize("store", ["s3", "folder"])
def test_posted_commands_end_as_an_adapter_that_the_node_has_activated(
    settings: Settings, store: home_hub.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_hub, "find_mosquitto", lambda _: program())
    monkeypatch.setattr(home_hub, "log_as_json_lines", lambda *_: None)
    told = io.StringIO()
    asked = home_hub.run(settings, Console(file=told, width=200), store=store, commands=[lights(), alarm()])
    assert "the node has verified and activated" in told.getvalue()
    assert "the same commands again: deduped true" in told.getvalue()
    assert len(asked) == 10
    current = json.loads((tmp_path / "state" / "demo" / "node" / "current.json").read_text())
    assert current["dataset_hash"] in told.getvalue() or current["dataset_hash"][:12] in told.getvalue()
    home_hub.write_results(asked, tmp_path / "demo.json")
    assert len(json.loads((tmp_path / "demo.json").read_text())["rows"]) == 10


def test_a_demonstration_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mosquitto, "_SYSTEM_PATHS", ())
    with pytest.raises(RunFailedError, match="install it"):
        mosquitto.find_mosquitto(tmp_path / "unpacked")


def test_the_sentences_of_the_demonstration_are_no_examples() -> None:
    import yaml

    known = {example["voice_command"].lower() for one in home_hub.demo_commands() for example in one["examples"]}
    asked = [one["text"].lower() for one in yaml.safe_load(home_hub._SENTENCES.read_text())]
    assert len(asked) == 10
    assert not known & set(asked)
