"""What everything stands on: locks that match pyproject.toml, layers, and imports that stay light."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
HEAVY = {"torch", "transformers", "peft", "datasets", "boto3", "numpy", "qdrant_client", "mcp", "gradio"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: str) -> list[str]:
    """The requirements of a lock, each with its hashes."""
    text = (LOCKS / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pinned(*locks: str) -> set[str]:
    return {canonical(entry.split("==")[0]) for lock in locks for entry in entries(lock)}


def wanted(group: str = "") -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["dependency-groups"][group] if group else project["project"]["dependencies"]
    return {canonical(re.split(r"[\[<>=!~ ;]", requirement)[0]) for requirement in listed}


@pytest.mark.parametrize("lock", ["core.txt", "torch.txt", "dev.txt", "models.txt"])
def test_everything_locked_has_a_version_and_a_hash_and_no_url(lock: str) -> None:
    for entry in entries(lock):
        assert re.match(r"[\w.-]+==[\w.!+]+ .*--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in entry
        assert " @ " not in entry


def test_every_dependency_of_the_service_is_locked() -> None:
    assert wanted() <= pinned("core.txt", "torch.txt")
    assert wanted("dev") <= pinned("core.txt", "torch.txt", "dev.txt")


def test_torch_can_be_left_out_of_the_rest() -> None:
    assert "torch" in pinned("torch.txt")
    assert not [name for name in pinned("core.txt", "dev.txt") if re.match(r"torch$|triton|nvidia-|cuda-", name)]


def test_no_package_is_locked_twice_over() -> None:
    assert not pinned("core.txt") & pinned("torch.txt")
    assert not pinned("core.txt", "torch.txt") & pinned("dev.txt")


def test_the_lite_requirements_are_the_two_run_time_locks() -> None:
    lines = (ROOT / "requirements-lite.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-r locks/torch.txt", "-r locks/core.txt"]


@pytest.mark.parametrize("module", ["adapter_service.api", "adapter_service.cli", "adapter_service.settings"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    # A folder without __init__.py would import as nothing at all.
    loaded = "print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    program = f"import {module}, json, sys; assert {module}.__file__; {loaded}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert HEAVY.isdisjoint(json.loads(done.stdout))


def test_modules_keep_to_their_layers() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_continuous_integration_runs_what_people_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    assert script.read_text(encoding="utf-8").endswith("\nmake test\n")
