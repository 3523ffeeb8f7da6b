"""How adapters get into memory: read in the order of their use, taken in where there is room, and told of faults."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapter_service.engine.measures import Measures
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.residency import Residency
from adapter_service.engine.resident_adapters import ResidentAdapters
from adapter_service.errors import AdapterFormatError, NotReadyError, TooManyPinsError
from adapter_service.lora.resident import ResidentAdapter
from tests.engine.conftest import WAIT_SECONDS

A, B, C = (AdapterFiles(key, Path(key), f"{key}@1") for key in "abc")


class Disk:
    """Reads empty adapters, or raises what it is told to; `arrived` has one more for each that has been read."""

    def __init__(self) -> None:
        self.read_keys: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.arrived: queue.SimpleQueue[None] = queue.SimpleQueue()

    def read(self, files: AdapterFiles) -> ResidentAdapter:
        assert self.may_go_on.wait(WAIT_SECONDS)
        self.read_keys.append(files.key)
        if files.key in self.faults:
            raise self.faults[files.key]
        return ResidentAdapter(files.key, 8, {})


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def residency() -> Residency[ResidentAdapter]:
    return Residency(2, 2**30)


@pytest.fixture
def adapters(disk: Disk, residency: Residency[ResidentAdapter]) -> Iterator[ResidentAdapters]:
    adapters = ResidentAdapters(disk.read, residency, Measures(), lambda: disk.arrived.put(None))
    yield adapters
    disk.may_go_on.set()
    adapters.close(NotReadyError("the test is over"))


@pytest.fixture
def take_in(adapters: ResidentAdapters, disk: Disk) -> Callable[[int], None]:
    def take_in(count: int) -> None:
        """Wait for so many, then take in what there is room for."""
        for _ in range(count):
            disk.arrived.get(timeout=WAIT_SECONDS)
        adapters.take_in()

    return take_in


TakeIn = Callable[[int], None]


def test_what_is_expected_is_read_once_and_then_there(adapters: ResidentAdapters, disk: Disk, take_in: TakeIn) -> None:
    for _ in range(3):
        adapters.expect([A, B])
    assert not adapters.has_settled(A)
    take_in(2)
    assert adapters.has_settled(A)
    assert adapters.acquire(A).key == "a"
    assert disk.read_keys == ["a", "b"]


def test_no_more_are_read_ahead_than_there_is_room_for(adapters: ResidentAdapters, disk: Disk, take_in: TakeIn) -> None:
    adapters.expect([A, B, C])
    take_in(2)
    adapters.acquire(A)
    adapters.acquire(B)
    adapters.expect([C])
    assert disk.read_keys == ["a", "b"]
    adapters.release("a")
    adapters.expect([C])
    take_in(1)
    assert disk.read_keys == ["a", "b", "c"]


def test_what_arrives_while_all_room_is_in_use_waits_for_it(
    adapters: ResidentAdapters, residency: Residency[ResidentAdapter], take_in: TakeIn
) -> None:
    adapters.expect([A, B])
    take_in(2)
    adapters.acquire(A)
    adapters.expect([C])
    adapters.acquire(B)
    take_in(1)
    assert (adapters.arrived, adapters.has_settled(C)) == (1, False)
    adapters.release("b")
    take_in(0)
    assert (adapters.arrived, residency.keys()) == (0, ["a", "c"])


def test_those_who_are_next_are_not_driven_out_by_those_behind(
    adapters: ResidentAdapters, residency: Residency[ResidentAdapter], take_in: TakeIn
) -> None:
    adapters.expect([A, B])
    take_in(2)
    adapters.expect([A, C])
    take_in(1)
    assert residency.keys() == ["a", "c"]


def test_the_contents_fault_is_kept_and_the_disks_is_told_once(
    adapters: ResidentAdapters, disk: Disk, take_in: TakeIn
) -> None:
    disk.faults = {"a": AdapterFormatError("no matrix"), "b": OSError("input/output error")}
    adapters.expect([A, B])
    take_in(2)
    for _ in range(2):
        with pytest.raises(AdapterFormatError, match="no matrix"):
            adapters.acquire(A)
    with pytest.raises(OSError, match="input/output"):
        adapters.acquire(B)
    assert not adapters.has_settled(B)
    del disk.faults["b"]
    adapters.expect([A, B])
    take_in(1)
    assert adapters.acquire(B).key == "b"
    assert disk.read_keys == ["a", "b", "b"]


def test_a_disks_fault_is_not_told_to_those_who_come_when_all_who_waited_have_left(
    adapters: ResidentAdapters, disk: Disk, take_in: TakeIn
) -> None:
    disk.faults = {"a": OSError("input/output error")}
    adapters.expect([A])
    take_in(1)
    adapters.expect([])
    assert not adapters.has_settled(A)


def test_a_pin_is_told_when_it_is_there_and_stays(
    adapters: ResidentAdapters, residency: Residency[ResidentAdapter], take_in: TakeIn
) -> None:
    told: list[Exception | None] = []
    adapters.pin(A, told.append)
    assert not told
    take_in(1)
    adapters.pin(A, told.append)
    assert told == [None, None]
    adapters.expect([B, C])
    take_in(1)
    adapters.expect([C])
    take_in(1)
    assert residency.keys() == ["a", "c"]
    adapters.unpin("a")
    assert residency.pinned() == {"a"}  # as often as it was pinned
    for _ in range(2):  # and once more, which is nothing
        adapters.unpin("a")
        assert residency.pinned() == frozenset()


def test_a_pin_that_cannot_be_is_told_why(
    adapters: ResidentAdapters, residency: Residency[ResidentAdapter], disk: Disk, take_in: TakeIn
) -> None:
    told: list[Exception | None] = []
    disk.faults = {"a": OSError("input/output error")}
    adapters.pin(A, told.append)
    adapters.pin(B, told.append)
    take_in(1)
    assert [type(one) for one in told] == [TooManyPinsError, OSError]
    assert residency.pinned() == frozenset()
    disk.faults = {}
    adapters.pin(A, told.append)
    take_in(1)
    assert told[2:] == [None]


def test_two_who_wait_for_one_pin_are_both_told_and_hold_no_place(
    adapters: ResidentAdapters, disk: Disk, take_in: TakeIn
) -> None:
    told: list[Exception | None] = []
    disk.faults = {"a": OSError("input/output error")}
    disk.may_go_on.clear()
    for _ in range(2):
        adapters.pin(A, told.append)
    disk.may_go_on.set()
    take_in(1)
    assert [type(one) for one in told] == [OSError, OSError]
    adapters.pin(B, told.append)
    take_in(1)
    assert told[2:] == [None]


def test_a_pin_has_it_read_again_though_somebody_is_still_to_be_told_of_a_fault(
    adapters: ResidentAdapters, disk: Disk, take_in: TakeIn
) -> None:
    told: list[Exception | None] = []
    disk.faults = {"a": OSError("input/output error")}
    adapters.expect([A])
    take_in(1)
    disk.faults = {}
    adapters.pin(A, told.append)
    take_in(1)
    assert told == [None]
    assert adapters.acquire(A).key == "a"


def test_whoever_waits_for_a_pin_at_the_end_is_told(adapters: ResidentAdapters, disk: Disk) -> None:
    told: list[Exception | None] = []
    disk.may_go_on.clear()
    adapters.pin(A, told.append)
    error = NotReadyError("the service is stopping")
    adapters.close(error)
    assert told == [error]
