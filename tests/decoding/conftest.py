"""Small bases are made by as many threads as large ones."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from adapter_service.decoding import decoder


class NoHelpers:
    """Threads that never come: whoever leads makes all the parts."""

    def __init__(self) -> None:
        self.asked = 0

    def submit(self, *_: Any) -> Future[None]:
        self.asked += 1
        return Future()


@pytest.fixture(autouse=True)
def _all_are_worth_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_WORTH_A_HELPER", 1)


@pytest.fixture
def no_helpers(monkeypatch: pytest.MonkeyPatch) -> NoHelpers:
    none = NoHelpers()
    monkeypatch.setattr(decoder, "_threads", none)
    return none
