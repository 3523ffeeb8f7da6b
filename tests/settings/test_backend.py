"""Who answers: keys that belong to a kind, and what that kind changes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.errors import SettingsError
from adapter_service.settings import Settings, load_settings


def loaded(folder: Path, text: str, **environ: str) -> Settings:
    path = folder / "adapter_config.yaml"
    path.write_text(text)
    return load_settings(path, environ=environ)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: ollama", "'engine', 'llama.cpp' or 'vllm'"),
        ("kind: vllm", "there are no 'servers'"),
        ("kind: llama.cpp\n  servers: ['http://a:1']", "there is 'servers', which is of another kind"),
        ("gguf: base.gguf", "there is 'gguf', which is of another kind"),
        ("kind: vllm\n  servers: ['gpu-1:8000']", "is no server's address"),
        ("kind: vllm\n  servers: ['http://gpu-1:80a']", "is no server's address"),
        ("kind: vllm\n  servers: ['http://gpu-1:99999']", "is no server's address"),
        ("kind: vllm\n  servers: ['http://u:pw@gpu-1']", r"'http://\*\*\*@gpu-1' is no server's address"),
        ("kind: vllm\n  servers: ['http://a', 'http://a']", "is there twice"),
        ("kind: vllm\n  servers: ['http://a']\n  api_key: abc", "'api_key' is a secret"),
        ("kind: vllm\n  servers: ['http://a']\n  server_adapter_dir: /x", "say with 'adapter_dir'"),
        ("kind: vllm\n  server: ['http://a']", "did you mean 'servers'"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        loaded(tmp_path, f"backend:\n  {text}\n")


def test_servers_of_others_have_no_penalties_that_nobody_asks_for(tmp_path: Path) -> None:
    """Gates score by the same settings."""
    settings = loaded(tmp_path, "backend: {kind: llama.cpp}\nserving: {repetition_penalty: 1.3}\n")
    assert (settings.serving.repetition_penalty, settings.serving.foreign_script_penalty) == (1.0, 0.0)
    assert any("have no effect" in note for note in settings.notes)
    settings = loaded(tmp_path, "serving: {repetition_penalty: 1.3}\n")
    assert (settings.serving.repetition_penalty, settings.serving.foreign_script_penalty) == (1.3, 5.0)


def test_tokens_that_llama_cpp_does_not_tell_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"line 2: 'rl.log_generations' is true and 'backend.kind' llama.cpp"):
        loaded(tmp_path, "rl:\n  log_generations: true\nbackend: {kind: llama.cpp}\n")


def test_variables_of_the_section_are_no_unknown_ones(tmp_path: Path) -> None:
    text = "backend: {kind: vllm, servers: ['http://${ADAPTER_GPU}'], api_key: '${ADAPTER_FLEET_KEY}'}\n"
    settings = loaded(tmp_path, text, ADAPTER_GPU="a:1", ADAPTER_FLEET_KEY="k")
    assert settings.backend.servers == ["http://${ADAPTER_GPU}"]
    assert settings.masked()["backend"]["api_key"] == "***"
