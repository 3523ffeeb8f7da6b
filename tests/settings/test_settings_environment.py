"""ADAPTER_* variables."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

from adapter_service.errors import SettingsError
from adapter_service.settings import load_settings
from adapter_service.settings.sections import SECTIONS


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "adapter_config.yaml"
    path.write_text("serving:\n  port: 8101\n", encoding="utf-8")
    return path


def test_a_variable_overrides_the_file(config: Path) -> None:
    assert load_settings(config, environ={"ADAPTER_SERVING__PORT": "8200"}).serving.port == 8200


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("ADAPTER_DATA__LANGUAGES", "[hi, ta]", "data.languages", ["hi", "ta"]),
        ("ADAPTER_LORA__RANK_PATTERN", "{q_proj: 4}", "lora.rank_pattern", {"q_proj": 4}),
        ("ADAPTER_LORA__TARGET_MODULES", "[q_proj]", "lora.target_modules", ["q_proj"]),
        ("ADAPTER_LORA__TARGET_MODULES", "all-linear", "lora.target_modules", "all-linear"),
        ("ADAPTER_TRAINING__MAX_STEPS", "null", "training.max_steps", None),
        ("ADAPTER_TRAINING__LEARNING_RATE", "2e-4", "training.learning_rate", 2e-4),
        ("ADAPTER_QUANTIZATION__USE_8BIT", "True", "quantization.use_8bit", True),
        ("ADAPTER_SERVING__TRAIN_SHARE", "0.5", "serving.train_share", 0.5),
        ("ADAPTER_SERVING__PINNED_ADAPTERS", "[home, garden]", "serving.pinned_adapters", ["home", "garden"]),
        ("ADAPTER_MODEL__REVISION", "123", "model.revision", "123"),
    ],
)
def test_a_variable_may_hold_any_kind_of_value(
    config: Path, variable: str, text: str, path: str, value: object
) -> None:
    settings = load_settings(config, environ={variable: text})
    assert attrgetter(path)(settings) == value


def test_a_misspelt_variable_is_refused(config: Path) -> None:
    with pytest.raises(SettingsError, match="ADAPTER_SERVING__PROT: unknown; did you mean 'ADAPTER_SERVING__PORT'"):
        load_settings(config, environ={"ADAPTER_SERVING__PROT": "8200"})


def test_variables_of_other_programs_are_left_alone(config: Path) -> None:
    assert load_settings(config, environ={"PATH": "x", "MY_ADAPTER_X": "y"}).notes == ()


def test_state_lies_beside_the_configuration_unless_a_variable_says_otherwise(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    assert load_settings(config, environ={}).storage.state_dir == tmp_path / ".state"
    moved = load_settings(config, environ={"ADAPTER_STATE_DIR": "elsewhere"})
    assert moved.storage.state_dir == tmp_path.parent / "elsewhere"


def test_every_number_that_is_set_arrives(config: Path) -> None:
    wanted = {
        (section, key): field.default + 1
        for section, model in SECTIONS.items()
        for key, field in model.model_fields.items()
        if type(field.default) is int
    }
    environ = {f"ADAPTER_{section}__{key}".upper(): str(value) for (section, key), value in wanted.items()}
    settings = load_settings(config, environ=environ)
    assert {path: attrgetter(".".join(path))(settings) for path in wanted} == wanted


def test_files_are_found_here_before_the_shipped_ones(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings.config_path == config
    assert settings.sources_path is not None
    assert settings.sources_path.parent != tmp_path


def test_variables_name_both_files(config: Path, tmp_path: Path) -> None:
    sources = tmp_path / "mine.yml"
    sources.write_text("sources:\n  multilingual_corpus: {kind: local, path: a.txt}\n", encoding="utf-8")
    settings = load_settings(environ={"ADAPTER_CONFIG": str(config), "ADAPTER_SOURCES": str(sources)})
    assert (settings.serving.port, list(settings.sources)) == (8101, ["multilingual_corpus"])


def test_a_variable_that_a_source_names_is_known(config: Path) -> None:
    settings = load_settings(config, environ={"ADAPTER_SAMPLE_PORT": "4711"})
    options = settings.sources["sample_http"].resolved_options({"ADAPTER_SAMPLE_PORT": "4711"})
    assert options["url"] == "http://127.0.0.1:4711/english_indic.jsonl"


def test_a_variable_of_the_older_service_is_noted(config: Path) -> None:
    settings = load_settings(config, environ={"ADAPTER_PAUSE_SERVING_DURING_TRAINING": "true"})
    assert "has no effect" in settings.notes[0]
