"""The back end that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter_service.backends import llama, opening
from adapter_service.backends.dispatcher import Dispatcher
from adapter_service.errors import SettingsError
from adapter_service.settings import BackendSettings, ModelSettings, Settings, StorageSettings


def opened(state: Path, base: str = "package:smollm2-135m", **backend: Any) -> Any:
    settings = Settings(
        model=ModelSettings(base=base), storage=StorageSettings(state_dir=state), backend=BackendSettings(**backend)
    )
    return opening.open_backend(settings, lambda _: ())


def fleet(state: Path, **backend: Any) -> Any:
    found = opened(state, kind="vllm", **backend)
    assert isinstance(found, Dispatcher)
    return found._server


def test_the_engine_has_none(tmp_path: Path) -> None:
    assert opened(tmp_path) is None


def test_servers_and_folders_may_be_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU", "gpu-1:8000")
    monkeypatch.setenv("SHARE", str(tmp_path / "share"))
    made = fleet(
        tmp_path, servers=["http://${GPU}", "http://gpu-2"], adapter_dir="${SHARE}", server_adapter_dir="/mnt/a/"
    )
    assert [name for name, _ in made.servers] == ["gpu-1:8000", "gpu-2"]
    assert made._folder.parent == tmp_path / "share"
    assert made._seen_as == f"/mnt/a/{made._folder.name}"


def test_two_services_do_not_share_a_folder_and_each_keeps_its_own(tmp_path: Path) -> None:
    shared = {"servers": ["http://a"], "adapter_dir": str(tmp_path / "share")}
    first, again, other = (fleet(tmp_path / state, **shared)._folder for state in ("one", "one", "two"))
    assert first == again != other


def test_by_default_servers_see_the_same_folder(tmp_path: Path) -> None:
    made = fleet(tmp_path, servers=["http://a"])
    assert made._seen_as == str(made._folder)
    assert made._folder.is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ({"servers": ["http://${NOWHERE}"]}, "needs the environment variable NOWHERE"),
        ({"servers": ["${WITH_USER}"]}, r"'http://\*\*\*@a' is no server's address"),
        ({"servers": ["${A}", "http://a:1"]}, "has a:1 twice"),
        ({"servers": ["http://a"], "adapter_dir": "here"}, "give an absolute path"),
    ],
)
def test_what_variables_come_to_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("WITH_USER", "http://u:pw@a")
    monkeypatch.setenv("A", "http://A:1")
    with pytest.raises(SettingsError, match=said):
        fleet(tmp_path, **backend)


def test_llama_cpp_takes_the_bases_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda _: True)
    found = opened(tmp_path, kind="llama.cpp")._server
    assert found._find_model().suffix == ".gguf"


def test_llama_cpp_needs_a_file(tmp_path: Path, tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda _: True)
    with pytest.raises(SettingsError, match=r"is no GGUF file; name one .* with 'backend.gguf'"):
        opened(tmp_path, str(tiny_base_folder), kind="llama.cpp")


def test_llama_cpp_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'adapter-service\[llama\]'"):
        opened(tmp_path, kind="llama.cpp")


def test_a_base_in_parts_is_put_together_once(tmp_path: Path) -> None:
    from adapter_service.base_models.importing import whole_gguf

    parts = [tmp_path / f"part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        part.write_bytes(bytes([number]) * 5)
    whole = whole_gguf(parts, tmp_path / "joined")
    assert whole.read_bytes() == b"\x00" * 5 + b"\x01" * 5 + b"\x02" * 5
    made_at = whole.stat().st_mtime_ns
    assert whole_gguf(parts, tmp_path / "joined") == whole
    assert (whole.stat().st_mtime_ns, len(list((tmp_path / "joined").iterdir()))) == (made_at, 1)
    assert whole_gguf(parts[:1], tmp_path / "joined") == parts[0]
