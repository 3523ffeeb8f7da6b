"""Live versions stay resident, whatever goes wrong meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator

import pytest

from adapter_service.engine import pinning
from adapter_service.engine.engine import Engine
from adapter_service.engine.pinning import PinnedAdapters
from adapter_service.engine.requests import AdapterFiles
from tests.engine.conftest import WAIT_SECONDS, MakeFiles

Pin = Callable[[Callable[[str], AdapterFiles | None], list[str]], PinnedAdapters]


class Settling:
    """Tells when something was pinned, and of whatever pin fails."""

    def __init__(self, engine: Engine, *faults: Exception) -> None:
        self.tried: list[str] = []
        self._pin, self._faults = engine.pin, list(faults)
        self._pinned = threading.Semaphore(0)

    def __call__(self, files: AdapterFiles) -> None:
        self.tried.append(files.key)
        if self._faults:
            raise self._faults.pop(0)
        self._pin(files)
        self._pinned.release()

    def wait(self) -> None:
        assert self._pinned.acquire(timeout=WAIT_SECONDS)


@pytest.fixture
def pin(engine: Engine) -> Iterator[Pin]:
    """Keeps `names` resident until the test is over."""
    made: list[PinnedAdapters] = []

    def start(live: Callable[[str], AdapterFiles | None], names: list[str]) -> PinnedAdapters:
        pinned = PinnedAdapters(engine, live, names)
        made.append(pinned)
        pinned.start()
        pinned.wake()
        return pinned

    yield start
    for pinned in made:
        pinned.stop()
        pinned._thread.join(WAIT_SECONDS)
        assert not pinned._thread.is_alive()


def test_what_goes_live_is_pinned_in_place_of_what_was(
    engine: Engine, make_files: MakeFiles, pin: Pin, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_files(1), make_files(2)
    settling = Settling(engine)
    monkeypatch.setattr(engine, "pin", settling)
    live = {"codes": one}
    pinned = pin(live.get, ["codes", "not yet trained"])
    settling.wait()
    assert engine._residency.pinned() == {one.key}
    live["codes"] = two
    pinned.wake()
    settling.wait()
    assert engine._residency.pinned() == {two.key}


def test_one_that_fails_stops_no_other_and_is_tried_again(
    engine: Engine,
    make_files: MakeFiles,
    pin: Pin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = make_files(1), make_files(2)
    settling = Settling(engine, OSError(5, "Input/output error"))
    monkeypatch.setattr(engine, "pin", settling)
    monkeypatch.setattr(pinning, "_RETRY_SECONDS", 0.01)
    pin({"codes": one, "units": two}.get, ["codes", "units"])
    settling.wait()
    settling.wait()
    assert settling.tried == [one.key, two.key, one.key]
    assert engine._residency.pinned() == {one.key, two.key}
    assert "adapter codes is not kept resident" in caplog.text


def test_a_database_that_cannot_be_read_for_a_while_leaves_no_pin_behind(
    engine: Engine, make_files: MakeFiles, pin: Pin, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_files(1), make_files(2)
    settling = Settling(engine)
    monkeypatch.setattr(engine, "pin", settling)
    monkeypatch.setattr(pinning, "_RETRY_SECONDS", 0.01)
    said: list[AdapterFiles | Exception] = [one, sqlite3.OperationalError("database is locked"), two]

    def live(name: str) -> AdapterFiles:
        found = said.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    pinned = pin(live, ["codes"])
    settling.wait()
    pinned.wake()
    settling.wait()
    assert engine._residency.pinned() == {two.key}
