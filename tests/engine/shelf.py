"""Versions with random weights in a real store, for engines over the tiny base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapter_service.adapters import Version, VersionStatus, VersionStore
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from tests.engine.conftest import write_files


def shelved(
    versions: VersionStore, engine: Engine, work_dir: Path, name: str, kinds: Sequence[dict[str, Any]], *, seed: int = 0
) -> list[AdapterFiles]:
    """A version of `name` for each of `kinds`, the first of which is live."""
    files = []
    for number, kind in enumerate(kinds):
        written = write_files(engine.layers, work_dir, seed + number, **kind)
        version = versions.publish(
            name, written.folder, key=f"{seed + number:064x}", job_id=None, base_id=engine.base.identity
        )
        files.append(AdapterFiles.of(version))
    versions.go_live(versions.resolve(f"{name}@1"))
    return files


def live(versions: VersionStore, name: str) -> AdapterFiles:
    """As a request finds it."""
    return AdapterFiles.of(versions.resolve(name))


def not_live(versions: VersionStore, name: str) -> list[Version]:
    return [one for one in versions.list() if one.adapter == name and one.status is not VersionStatus.LIVE]
