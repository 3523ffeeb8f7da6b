"""Named sources, their variables, and secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.errors import SettingsError
from adapter_service.settings import Section, Settings, SourceEntry, load_settings, masked, validate_section

WEB = """
sources:
  multilingual_corpus:
    kind: http
    url: https://data.example.org/x.jsonl
    headers:
      Authorization: Bearer ${DATA_TOKEN}
      Accept: application/json
"""


def load(folder: Path, sources: str) -> Settings:
    path = folder / "mcp_connectors.yml"
    path.write_text(sources, encoding="utf-8")
    return load_settings(None, path, {})


def test_a_source_keeps_its_kind_options_and_lines(tmp_path: Path) -> None:
    entry = load(tmp_path, WEB).sources["multilingual_corpus"]
    assert (entry.kind, entry.line, entry.lines["headers.Accept"]) == ("http", 3, 8)
    assert entry.options["url"] == "https://data.example.org/x.jsonl"


def test_a_secret_is_read_when_the_source_is_opened(tmp_path: Path) -> None:
    entry = load(tmp_path, WEB).sources["multilingual_corpus"]
    assert entry.resolved_options({"DATA_TOKEN": "s3cret"})["headers"]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(entry)


def test_a_variable_that_is_not_set_is_named_with_its_source(tmp_path: Path) -> None:
    entry = load(tmp_path, WEB).sources["multilingual_corpus"]
    with pytest.raises(SettingsError, match=r"line 7: source 'multilingual_corpus' needs .* DATA_TOKEN"):
        entry.resolved_options({})


@pytest.mark.parametrize(
    "option",
    [
        "token: abc",
        "headers: {Authorization: abc}",
        "url: https://me:abc@example.org/",
        "auth: {password: abc}",
    ],
)
def test_a_written_secret_is_refused_without_being_repeated(tmp_path: Path, option: str) -> None:
    with pytest.raises(SettingsError, match="holds a secret; put it into an environment variable") as caught:
        load(tmp_path, f"sources:\n  multilingual_corpus:\n    kind: http\n    {option}\n")
    assert "abc" not in str(caught.value)


def test_a_relative_path_counts_from_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, "sources:\n  multilingual_corpus: {kind: local, path: texts/a.jsonl}\n")
    options = settings.sources["multilingual_corpus"].resolved_options({})
    assert options["path"] == str(tmp_path / "texts" / "a.jsonl")


def test_a_source_without_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line 2: source 'a' has no 'kind'"):
        load(tmp_path, "sources:\n  a: {path: x}\n")


def test_what_is_written_beside_artifacts_has_no_secrets() -> None:
    options = {"headers": {"X-Any": "abc"}, "token": "abc", "url": "https://u:x@abc@h/?api_key=abc&page=1"}
    entry = SourceEntry(name="a", kind="http", options={**options, "max_new_tokens": 5})
    dumped = Settings(sources={"a": entry}).masked()
    assert "abc" not in str(dumped)
    assert dumped["sources"]["a"]["options"]["max_new_tokens"] == 5
    assert dumped["sources"]["a"]["options"]["url"] == "https://***@h/?api_key=***&page=1"


def test_masking_keeps_what_is_no_secret() -> None:
    section = {"max_body_bytes": 5, "languages": ["hi"], "token_budget": 512, "min_holdout_samples": 1}
    assert masked(section) == section


MIX = """
sources:
  stories: {kind: local, path: a.txt}
  news: {kind: local, path: b.txt}
  both:
    kind: mix
    sources:
      stories: 3
      news: 1
"""


def test_a_mix_has_the_entries_that_it_names(tmp_path: Path) -> None:
    settings = load(tmp_path, f"{MIX}  multilingual_corpus: {{kind: local, path: c.txt}}\n")
    assert settings.sources["both"].parts == {name: settings.sources[name] for name in ("stories", "news")}
    assert "parts" not in str(settings.masked())


def test_a_source_of_a_mix_may_have_any_name(tmp_path: Path) -> None:
    renamed = MIX.replace("news", "secretary_letters")
    settings = load(tmp_path, f"{renamed}  multilingual_corpus: {{kind: local, path: c.txt}}\n")
    assert "secretary_letters" in settings.sources["both"].parts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("newz", r"line 9: mix 'both' names the source 'newz', which there is not; did you mean 'news'\?"),
        ("both", r"line 9: mix 'both' names itself; name the sources in it"),
        ("other", r"line 9: mix 'both' names 'other', which is a mix too; name the sources in it"),
    ],
)
def test_a_mix_of_what_it_cannot_be_made_of_is_refused_at_the_line(tmp_path: Path, name: str, message: str) -> None:
    other = "  other: {kind: mix, sources: {news: 1}}\n"
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, MIX.replace("news: 1", f"{name}: 1") + other)


class _Spec(Section):
    url: str
    retries: int = 3


def test_a_connectors_own_spec_gets_the_same_messages() -> None:
    with pytest.raises(SettingsError) as caught:
        validate_section(_Spec, {"ulr": "x"}, where="mcp_connectors.yml", lines={"ulr": 9}, prefix="sources.web")
    assert "mcp_connectors.yml line 9: unknown key 'sources.web.ulr'; did you mean 'url'?" in str(caught.value)
    assert "mcp_connectors.yml: 'sources.web.url' is missing; add it" in str(caught.value)
