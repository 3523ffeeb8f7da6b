from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from adapter_service.connectors import registry
from adapter_service.connectors.base import Cursor, Record
from adapter_service.connectors.registry import KINDS, kind_named, known_kinds, register
from adapter_service.connectors.spec import SourceSpec
from adapter_service.errors import SettingsError
from adapter_service.settings.sources import MIX
from tests.connectors.conftest import open_kind


class CountSpec(SourceSpec):
    up_to: int


class CountReader:
    def __init__(self, spec: CountSpec, name: str) -> None:
        self.spec, self.name = spec, name

    def check(self) -> str:
        return f"numbers up to {self.spec.up_to}"

    def records(self, after: Cursor | None) -> Iterator[Record]:
        for number in range(after["number"] + 1 if after else 1, self.spec.up_to + 1):
            yield Record({"number": number}, f"{self.name}:{number}", {"text": f"number {number}"})


def test_every_built_in_kind_registers_itself() -> None:
    assert all(issubclass(kind_named(kind).spec, SourceSpec) for kind in KINDS if kind != MIX)


def test_a_kind_is_a_spec_and_a_class_with_two_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    register("count", spec=CountSpec)(CountReader)
    connector = open_kind("count", up_to=3)
    assert [sample.completion for _, sample in connector.stream()] == ["number 1", "number 2", "number 3"]
    assert connector.check() == "numbers up to 3; first sample: 'number 1' (no language)"


def test_packages_of_others_announce_a_kind_as_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("count", "tests.connectors.announced_kind", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "entry_points", lambda group, name="count": [point] if name == "count" else [])
    assert "count" in known_kinds()
    assert open_kind("count", up_to=2).check().startswith("numbers up to 2")


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"source 'corpus': unknown connector kind 'htpp'; did you mean 'http'"):
        open_kind("htpp")
    with pytest.raises(SettingsError, match=r"known kinds: hf, http, local, memory, mix, qdrant, s3"):
        open_kind("ftp")


def test_opening_a_source_imports_only_its_own_kind() -> None:
    program = "import sys, adapter_service.connectors.registry; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
