"""What is compiled is kept where it can be, and works where it cannot."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from adapter_service.decoding import compiling
from adapter_service.decoding.tables import Integers


def count_up(numbers: Integers) -> None:
    for place in range(len(numbers)):
        numbers[place] = place


@pytest.mark.parametrize("error", [OSError("read-only file system"), RuntimeError("no home directory")])
def test_without_a_place_it_is_compiled_at_every_start(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def folder() -> Path:
        raise error

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(compiling, "_folder", folder)
    with caplog.at_level(logging.INFO):
        function = compiling.kept_compiled(count_up)
    numbers = np.zeros(3, np.int64)
    function(numbers)
    assert numbers.tolist() == [0, 1, 2]
    assert f"not kept for the next start: {error}" in caplog.text


def test_the_folder_is_in_the_users_cache_and_named_after_all_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(Path(compiling.__file__).parent, tmp_path / "code")
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "code" / "compiling.py"))
    folder = compiling._folder()
    assert folder.parent == tmp_path / "cache" / "adapter-service" / "compiled"
    assert folder.is_dir()
    assert compiling._folder() == folder
    with (tmp_path / "code" / "tiles.py").open("a") as changed:
        changed.write("# another\n")
    assert compiling._folder() != folder
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "own"))
    assert compiling._folder().is_relative_to(tmp_path / "own")


def test_what_nobody_has_used_for_long_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = compiling._folder()
    old, recent = (folder.parent / name for name in ("old", "recent"))
    for other in (old, recent):
        other.mkdir()
    os.utime(folder, (0, 0))
    os.utime(old, (0, 0))
    assert compiling._folder() == folder
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "recent"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86 processors")
def test_what_an_old_processor_has_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for it, a step would end the process."""
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+sse4.2,+avx")
    assert compiling.missing_instructions() == ["F16C", "FMA"]
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+sse4.2,+f16c,+fma")
    assert compiling.missing_instructions() == []
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: {"f16c": True, "fma": False})
    assert compiling.missing_instructions() == ["FMA"]


def test_the_next_process_finds_it(tmp_path: Path) -> None:
    program = """
import numpy as np
from adapter_service.decoding.compiling import kept_compiled
from tests.decoding.test_compiling import count_up
function = kept_compiled(count_up)
function(np.zeros(3, np.int64))
print(sum(function.stats.cache_hits.values()))
"""
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    hits = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
        ).stdout.strip()
        for _ in range(2)
    ]
    assert hits == ["0", "1"]
