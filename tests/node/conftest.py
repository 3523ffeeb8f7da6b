"""Where a node fetches from, and the broker that it listens to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mosquitto import broker
from tests.node.artifact_server import ArtifactServer, serving

__all__ = ["broker"]


@pytest.fixture
def server() -> Iterator[ArtifactServer]:
    with serving() as server:
        yield server
