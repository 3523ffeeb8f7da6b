"""A service's database with nobody told, and a broker to tell nodes by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.delivery.hub import Hub
from tests.mosquitto import broker

__all__ = ["broker"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "service.db")
    yield hub
    hub.close()
