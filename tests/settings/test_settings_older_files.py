"""Files of the older service: each key means something or is explained, never dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.errors import SettingsError
from adapter_service.settings import Settings, load_settings
from adapter_service.settings.older_config import OLDER, MovedTo
from adapter_service.settings.sections import SECTIONS

CONFIG = """
model: {base_model: bigscience/bloomz-560m, model_type: causal, use_8bit: true, device_map: auto, torch_dtype: float16}
lora: {r: 8, lora_alpha: 16, lora_dropout: 0.05, target_modules: [query_key_value, dense], bias: none, task_type: CAUSAL_LM}
training:
  {output_dir: adapters/x, num_train_epochs: 3, max_steps: -1, logging_steps: 10, save_total_limit: 2, fp16: true,
   gradient_checkpointing: true, dataloader_num_workers: 0, optim: adamw_torch, lr_scheduler_type: cosine}
data: {streaming: true, max_train_samples: 2000, max_eval_samples: 100, block_size: 256, preprocessing_num_workers: 1}
mcp: {primary_source: indian_languages, fallback_source: custom_api, config_path: mcp_connectors.yml}
hardware: {gpu_memory_limit: 6, cpu_fallback: true, mixed_precision: fp16, gradient_accumulation: true}
evaluation: {eval_steps: 100}
checkpointing: {resume: true}
logging: {level: INFO}
status: NOT_WORKING
"""
SOURCES = """
hf_sources:
  indian_languages: {dataset_name: ai4bharat/x, config_name: hi, streaming: true, split: train, max_samples: 9, languages: [hi]}
s3_sources:
  gurukul_corpus: {bucket: b, prefix: p/, region: ap-south-1, max_samples: 5, languages: [hi]}
qdrant_sources:
  knowledge_base: {host: localhost, port: 6333, collection: c}
http_sources:
  custom_api: {base_url: "https://api.example.org/", endpoint: /v1/texts, headers: {Accept: text/plain}, max_samples: 9}
streaming_config: {batch_size: 100, buffer_size: 1000, timeout: 30, retry_attempts: 3}
poll_interval_seconds: 5
connectors:
  - {name: news, type: http, url: "https://news.example.org/a", method: GET, params: {page: 1}, auth_env_token: NEWS}
sink: {path: out.jsonl, ensure_ascii: false}
"""


@pytest.fixture
def older(tmp_path: Path) -> Settings:
    config, sources = tmp_path / "adapter_config.yaml", tmp_path / "mcp_connectors.yml"
    config.write_text(CONFIG, encoding="utf-8")
    sources.write_text(SOURCES, encoding="utf-8")
    return load_settings(config, sources, {})


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
    "word", ["torch_dtype", "output_dir", "hardware", "checkpointing", "status", "sink", "timeout"]
)
def test_keys_without_effect_are_explained(older: Settings, word: str) -> None:
    word = {"timeout": "streaming_config"}.get(word, word)
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


def test_an_older_token_variable_becomes_a_header(older: Settings) -> None:
    options = older.sources["news"].resolved_options({"NEWS": "abc"})
    assert options["url"] == "https://news.example.org/a?page=1"
    assert options["headers"] == {"Authorization": "Bearer abc"}


def test_an_older_key_beside_its_new_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.yaml"
    path.write_text("lora:\n  lora_alpha: 8\n  alpha: 16\n", encoding="utf-8")
    with pytest.raises(
        SettingsError, match=r"line 2: older key 'lora.lora_alpha' and 'lora.alpha' are both given"
    ):
        load_settings(path, environ={})


def test_an_older_value_that_would_change_the_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.yaml"
    path.write_text("lora:\n  task_type: SEQ_2_SEQ_LM\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="line 2: 'lora.task_type' is 'SEQ_2_SEQ_LM'; only 'CAUSAL_LM'"):
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
