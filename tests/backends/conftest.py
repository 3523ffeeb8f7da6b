"""Adapters for servers that read none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_service.engine.requests import AdapterFiles


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str], AdapterFiles]:
    """Makes one of four bytes, its name being its key."""

    def make(name: str) -> AdapterFiles:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"0123")
        return AdapterFiles(name, folder, f"{name}@1")

    return make
