"""Both files and the environment, and how their faults are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.errors import SettingsError
from adapter_service.settings import Settings, load_settings


def load(folder: Path, config: str = "", sources: str | None = None, **environ: str) -> Settings:
    """Load from files written into `folder`; without `sources`, the shipped ones are read."""
    config_path = folder / "adapter_config.yaml"
    config_path.write_text(config, encoding="utf-8")
    sources_path = None
    if sources is not None:
        sources_path = folder / "mcp_connectors.yml"
        sources_path.write_text(sources, encoding="utf-8")
    return load_settings(config_path, sources_path, environ)


def faults_of(folder: Path, config: str = "", sources: str | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(folder, config, sources, **environ)
    return str(caught.value)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "").training == Settings().training


def test_a_misspelt_key_is_refused_with_its_line_and_the_likely_word(tmp_path: Path) -> None:
    text = faults_of(tmp_path, "model:\n  device: cpu\nlora:\n  r: 4\n  alhpa: 8\n")
    assert text.startswith(
        "adapter_config.yaml line 5: unknown key 'lora.alhpa'; did you mean 'alpha'? allowed: alpha, "
    )


def test_a_misspelt_section_is_refused(tmp_path: Path) -> None:
    text = faults_of(tmp_path, "serving:\n  port: 1\ntrainning:\n  seed: 1\n")
    assert "line 3: unknown key 'trainning'; did you mean 'training'?" in text


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = faults_of(tmp_path, "lora:\n  r: 0\nserving:\n  port: 99999\n", "bogus: 1\n", ADAPTER_MODEL__DEVICE="gpu")
    assert text.startswith("4 faults in the settings:\n")
    assert "adapter_config.yaml line 2: 'lora.r' is 0; it should be greater than or equal to 1" in text
    assert "adapter_config.yaml line 4: 'serving.port' is 99999" in text
    assert "mcp_connectors.yml line 1: unknown key 'bogus'" in text
    assert "variable ADAPTER_MODEL__DEVICE: 'model.device' is 'gpu'; it should be 'auto', 'cpu' or 'cuda'" in text


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999", "yes", "fast", "[1]", "{a: 1}"])
def test_a_number_is_finite_and_a_number(tmp_path: Path, value: str) -> None:
    text = faults_of(tmp_path, f"training:\n  learning_rate: {value}\n")
    assert "adapter_config.yaml line 2" in text
    assert "training.learning_rate" in text


@pytest.mark.parametrize("value", ["1e-3", "0.001", "'1e-3'", "1.0e-3"])
def test_a_number_may_be_written_as_people_do(tmp_path: Path, value: str) -> None:
    assert load(tmp_path, f"training:\n  learning_rate: {value}\n").training.learning_rate == 0.001


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    text = faults_of(tmp_path, "lora:\n  r: 4\n  r: 8\n")
    assert text == "adapter_config.yaml line 3: 'lora.r' was given in line 2 already; keep one"


@pytest.mark.parametrize("text", ["lora: [", "lora: &a {r: 4}\ngate: *a", "lora: !!python/name:os.system", "- 1"])
def test_only_plain_yaml_is_read(tmp_path: Path, text: str) -> None:
    assert "adapter_config.yaml line" in faults_of(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot be read"):
        load_settings(tmp_path / "nowhere.yaml", environ={})


def test_two_widths_at_once_are_refused(tmp_path: Path) -> None:
    text = faults_of(tmp_path, "quantization:\n  use_8bit: true\n  use_4bit: true\n")
    assert text.startswith("adapter_config.yaml line 1: in 'quantization': 'use_8bit' and 'use_4bit'")


def test_a_source_that_no_file_names_is_refused(tmp_path: Path) -> None:
    text = faults_of(tmp_path, "data:\n  source: multilingual_corpse\n")
    assert "line 2: 'data.source' is 'multilingual_corpse'" in text
    assert "did you mean 'multilingual_corpus'?" in text


def test_an_unchosen_source_that_is_missing_is_only_noted(tmp_path: Path) -> None:
    settings = load(tmp_path, "", "sources:\n  mine:\n    kind: local\n    path: a.jsonl\n")
    assert any("'data.source' is 'multilingual_corpus'" in note for note in settings.notes)


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.lora.r = 4


@pytest.mark.parametrize(("name", "meaning"), [("base", "the base model alone"), ("none", "no adapter")])
def test_the_default_adapter_has_a_name_that_an_adapter_may_have(tmp_path: Path, name: str, meaning: str) -> None:
    text = faults_of(tmp_path, f"serving:\n  default_adapter: {name}\n")
    assert f"'serving.default_adapter' is '{name}'; the name is reserved (it means {meaning}" in text


def test_a_duplicate_source_hides_no_other_fault(tmp_path: Path) -> None:
    twice = "sources:\n  a: {kind: http}\n  a: {kind: http}\n  b: {url: x}\nbogus: 1\n"
    text = faults_of(tmp_path, "data:\n  source: a\n", twice)
    assert text.startswith("3 faults")
    assert "line 3: 'sources.a' was given in line 2 already" in text
    assert "line 4: source 'b' has no 'kind'" in text
    assert "line 5: unknown key 'bogus'" in text


@pytest.mark.parametrize(
    ("serving", "fault"),
    [
        ("train_share: 1.0", "'serving.train_share' is 1.0; it should be less than or equal to 0.9"),
        ("max_active_requests: 65", "'serving.max_active_requests' is 65; it should be less than or equal to 64"),
        ("max_adapter_bytes: 0", "'serving.max_adapter_bytes' is 0; it should be greater than or equal to 1"),
        ("pinned_adapters: [Home]", "'serving.pinned_adapters.0' is 'Home'"),
        ("pinned_adapters: [a, a]", "'pinned_adapters' names 'a' twice; take one out"),
        ("{max_adapters: 2, pinned_adapters: [a, b]}", "names 2; with 'max_adapters' 2 at most 1 may be pinned"),
    ],
)
def test_what_the_engine_cannot_keep_to_is_refused(tmp_path: Path, serving: str, fault: str) -> None:
    between = " " if serving.startswith("{") else "\n  "
    assert fault in faults_of(tmp_path, f"serving:{between}{serving}\n")


def test_one_adapter_may_be_loaded_where_none_is_pinned(tmp_path: Path) -> None:
    serving = load(tmp_path, "serving: {max_adapters: 1}\n").serving
    assert (serving.max_adapters, serving.pinned_adapters) == (1, [])
