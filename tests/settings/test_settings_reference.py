"""adapter_config.yaml and mcp_connectors.yml are the reference: complete, explained, the defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapter_service.settings import Settings, load_settings
from adapter_service.settings.reading import read_document
from adapter_service.settings.sections import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
CONFIG, SOURCES = ROOT / "adapter_config.yaml", ROOT / "mcp_connectors.yml"


@pytest.mark.parametrize("section", SECTIONS)
def test_each_key_of_a_section_stands_in_the_file_in_the_same_order(section: str) -> None:
    values = read_document(CONFIG).values
    assert list(values) == list(SECTIONS)
    assert list(values[section]) == list(SECTIONS[section].model_fields)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_file_equals_the_defaults(section: str) -> None:
    if section != "storage":
        assert getattr(load_settings(CONFIG, SOURCES, {}), section) == getattr(Settings(), section)


def test_state_is_a_folder_of_the_checkout_that_git_ignores() -> None:
    assert load_settings(CONFIG, SOURCES, {}).storage.state_dir == ROOT / ".state"
    assert "/.state/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("path", [CONFIG, SOURCES], ids=lambda path: path.name)
def test_each_key_has_a_comment_above_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"\s*[a-z]\w*:", line) and line != "sources:"]
    bare = [lines[i] for i in keys if not lines[i - 1].lstrip().startswith("# ")]
    assert bare == []


def test_the_shipped_files_have_nothing_to_note() -> None:
    settings = load_settings(CONFIG, SOURCES, {})
    assert settings.notes == ()
    assert list(settings.sources) == ["multilingual_corpus", "sample_http"]
