"""Files of the older service: each key means something or is explained, never dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.connectors.registry import open_source
from adapter_service.errors import SettingsError
from adapter_service.settings import Settings, load_settings
from adapter_service.settings.older_config import OLDER, MovedTo
from adapter_service.settings.sections import SECTIONS

OLDER_FILES = Path(__file__).parent / "older"


@pytest.fixture
def older() -> Settings:
    return load_settings(OLDER_FILES / "adapter_config.yaml", OLDER_FILES / "mcp_connectors.yml", {})


def test_older_keys_are_read_by_their_new_names(older: Settings) -> None:
    assert older.model.base == "bigscience/bloomz-560m"
    assert older.quantization.use_8bit
    assert (older.lora.alpha, older.lora.dropout) == (16, 0.05)
    assert (older.training.num_epochs, older.training.max_seq_length, older.training.max_steps) == (
        3,
        256,
        None,
    )
    assert older.gate.max_holdout_samples == 100
    assert (older.data.source, older.data.fallback_source) == ("indian_languages", "custom_api")


@pytest.mark.parametrize(
    "word", ["torch_dtype", "output_dir", "hardware", "checkpointing", "status", "sink", "streaming_config"]
)
def test_keys_without_effect_are_explained(older: Settings, word: str) -> None:
    assert any(word in note and "has no effect: " in note for note in older.notes)


def test_older_lists_of_sources_become_sources(older: Settings) -> None:
    kinds = {name: entry.kind for name, entry in older.sources.items()}
    assert kinds == {
        "indian_languages": "hf",
        "gurukul_corpus": "s3",
        "knowledge_base": "qdrant",
        "custom_api": "http",
        "news": "http",
    }
    assert older.sources["custom_api"].options["url"] == "https://api.example.org/v1/texts"


def test_an_older_bucket_without_a_prefix_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "mcp_connectors.yml"
    path.write_text("s3_sources:\n  corpus: {bucket: b}\n", encoding="utf-8")
    settings = load_settings(None, path, {"ADAPTER_DATA__SOURCE": "corpus"})
    assert settings.sources["corpus"].options == {"bucket": "b", "prefix": ""}


def test_older_sources_are_as_their_connectors_want_them(older: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEWS", "abc")
    for entry in older.sources.values():
        open_source(entry)


def test_an_older_token_variable_becomes_a_header(older: Settings) -> None:
    options = older.sources["news"].resolved_options({"NEWS": "abc"})
    assert options["url"] == "https://news.example.org/a?page=1"
    assert options["headers"] == {"Authorization": "Bearer abc"}


@pytest.mark.parametrize("fault", ["params: a=b", "headers: [a]"])
def test_an_older_option_that_is_no_mapping_is_refused_at_its_line(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "mcp_connectors.yml"
    path.write_text(f"connectors:\n- name: x\n  url: http://x\n  auth_env_token: T\n  {fault}\n", encoding="utf-8")
    with pytest.raises(
        SettingsError, match=rf"line 2: source 'x': '{fault.partition(':')[0]}' is a \w+; write a mapping"
    ):
        load_settings(None, path, {})


def test_an_older_address_without_an_endpoint_is_the_address(tmp_path: Path) -> None:
    path = tmp_path / "mcp_connectors.yml"
    path.write_text("http_sources:\n  x: {base_url: http://x, endpoint: }\n", encoding="utf-8")
    settings = load_settings(None, path, {"ADAPTER_DATA__SOURCE": "x"})
    assert settings.sources["x"].options == {"url": "http://x"}


def test_an_older_key_beside_its_new_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.yaml"
    path.write_text("lora:\n  lora_alpha: 8\n  alpha: 16\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"line 2: older key 'lora.lora_alpha' and 'lora.alpha' are both given"):
        load_settings(path, environ={})


def test_an_older_value_that_would_change_the_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.yaml"
    path.write_text("lora:\n  task_type: SEQ_2_SEQ_LM\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"line 2: 'lora.task_type' is 'SEQ_2_SEQ_LM'; only 'CAUSAL_LM'"):
        load_settings(path, environ={})


def test_a_fault_of_an_older_key_is_told_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.yaml"
    path.write_text("model:\n  base_model: x\ndata:\n  block_size: 1\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"line 4: 'training.max_seq_length' is 1"):
        load_settings(path, environ={})


def test_every_new_name_in_the_table_exists() -> None:
    targets = [older.key.split(".") for older in OLDER.values() if isinstance(older, MovedTo)]
    assert all(key in SECTIONS[section].model_fields for section, key in targets)
    assert not any(
        key in SECTIONS[section].model_fields
        for section, _, key in (name.partition(".") for name in OLDER)
        if section in SECTIONS
    )
