"""A service that is started and killed, shared by the tests of one file: each uses an adapter of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), tiny_base_folder)
    yield made
    made.close()
