"""Shared by all tests: the small real base, imported once and kept between runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

ROOT = Path(__file__).resolve().parents[1]
SMALL_BASE = "package:smollm2-135m"


@pytest.fixture(scope="session")
def bases_dir() -> Path:
    """Where imported bases are kept; importing one takes most of a minute."""
    return Path(os.environ.get("ADAPTER_TEST_BASES", ROOT / ".state" / "test-bases"))


@pytest.fixture(scope="session")
def small_base(bases_dir: Path) -> BaseModel:
    """SmolLM2-135M-Instruct in float32, so that equal computations give equal numbers."""
    from adapter_service.model_utils import load_base

    return load_base(SMALL_BASE, bases_dir=bases_dir, device="cpu", dtype="float32")
