"""A service that is started and killed, shared by all tests here: each uses adapters of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.chaos.service import Service
from tests.waiting import eventually


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), tiny_base_folder)
    yield made
    made.close()


@pytest.fixture
def running(service: Service) -> Service:
    """The same, up and ready."""
    if not service.is_running:
        service.start()
    eventually(lambda: requests.get(f"{service.address}/ready", timeout=60).ok, "the base is loaded")
    return service
