"""What went live is pushed in the background: later when the store is away, once when it was killed, never in vain."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_service.adapters.uploads import Upload, UploadStatus
from adapter_service.errors import SettingsError, SupersededError
from adapter_service.publishing import pushing
from adapter_service.publishing import sender as sending
from adapter_service.publishing.folder_store import FolderStore
from adapter_service.publishing.sender import FIRST_WAIT, LONGEST_WAIT, Sender, waiting
from adapter_service.publishing.store import Place, Store
from tests.publishing.conftest import Machine, MakeMachine, folder_store

# Later than any row that a test makes by the real clock.
START = datetime(2100, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def machine(make_machine: MakeMachine) -> Machine:
    return make_machine(stores=("nas",))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The share's folder, which is not there yet."""
    return tmp_path / "nas"


def sender_of(
    machine: Machine, clock: Clock, stores: Mapping[str, Callable[[], Store]], max_attempts: int = 3
) -> Sender:
    return Sender(machine.uploads, machine.versions, stores, max_attempts=max_attempts, now=clock)


def only(machine: Machine) -> Upload:
    (upload,) = machine.uploads.list()
    return upload


def test_a_version_that_goes_live_is_pushed_to_every_store(make_machine: MakeMachine, root: Path, clock: Clock) -> None:
    machine = make_machine(stores=("nas", "usb"))
    first, second = folder_store(root), folder_store(root.with_name("usb"))
    sender = sender_of(machine, clock, {"nas": lambda: first, "usb": lambda: second})
    machine.versions.go_live(machine.train(1))
    assert sender.send_due() == 2
    assert [len(list(store.places())) for store in (first, second)] == [1, 1]
    assert {(upload.store, upload.status) for upload in machine.uploads.list()} == {
        ("nas", "pushed"),
        ("usb", "pushed"),
    }
    assert sender.send_due() == 0


def test_candidates_and_rejected_ones_are_not_pushed(machine: Machine, root: Path, clock: Clock) -> None:
    machine.versions.reject(machine.train(1), ["No gain."])
    machine.train(2)
    assert sender_of(machine, clock, {"nas": lambda: folder_store(root)}).send_due() == 0
    assert machine.uploads.list() == ()


def test_a_decision_that_came_too_late_queues_nothing(machine: Machine) -> None:
    candidate = machine.train(1)
    machine.versions.reject(candidate, ["No gain."])
    with pytest.raises(SupersededError):
        machine.versions.go_live(candidate)
    assert machine.uploads.list() == ()


def test_going_live_and_its_push_are_one_transaction(machine: Machine) -> None:
    candidate = machine.train(1)
    with machine.database.transaction() as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON uploads BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        machine.versions.go_live(candidate)
    assert machine.versions.resolve("hindi@1").status == "candidate"


def test_a_store_that_is_away_is_asked_later_and_later(machine: Machine, root: Path, clock: Clock) -> None:
    sender = sender_of(machine, clock, {"nas": lambda: _mounted(root)}, max_attempts=9)
    machine.versions.go_live(machine.train(1))
    waits = []
    for attempt in range(1, 6):
        assert sender.send_due() == 1
        upload = only(machine)
        assert (upload.status, upload.attempts) == (UploadStatus.PENDING, attempt)
        assert "mount the share" in (upload.reason or "")
        waits.append(upload.next_attempt_at - clock.now)
        assert sender.send_due() == 0
        clock.now = upload.next_attempt_at
    assert waits == sorted(waits)
    root.mkdir()
    assert sender.send_due() == 1
    assert (only(machine).status, only(machine).reason) == (UploadStatus.PUSHED, None)


def _mounted(root: Path) -> Store:
    return FolderStore("nas", root, writer="w1")


class TellingStore(FolderStore):
    """A folder that says when a version is whole in it."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        super().__init__("nas", root, writer="w1")
        self.completed = threading.Event()

    def complete(self, place: Place, manifest: bytes) -> None:
        super().complete(place, manifest)
        self.completed.set()


def test_after_the_last_attempt_the_push_is_failed_with_the_reason_and_the_version_still_live(
    machine: Machine, root: Path, clock: Clock
) -> None:
    sender = sender_of(machine, clock, {"nas": lambda: _mounted(root)}, max_attempts=2)
    live = machine.versions.go_live(machine.train(1))
    for _ in range(2):
        assert sender.send_due() == 1
        clock.now += LONGEST_WAIT * 2
    assert only(machine).status is UploadStatus.FAILED
    assert "given up after 2 attempts" in (only(machine).reason or "")
    assert sender.send_due() == 0
    assert machine.versions.live("hindi") == live


def test_what_would_not_help_to_try_again_is_failed_at_once(machine: Machine, root: Path, clock: Clock) -> None:
    version = machine.versions.go_live(machine.train(1))
    (version.path / "adapter_model.safetensors").write_bytes(b"?")
    assert sender_of(machine, clock, {"nas": lambda: folder_store(root)}).send_due() == 1
    assert only(machine).status is UploadStatus.FAILED
    assert "damaged" in (only(machine).reason or "")


def test_a_failed_push_is_tried_anew_when_the_version_goes_live_again(
    machine: Machine, root: Path, clock: Clock
) -> None:
    sender = sender_of(machine, clock, {"nas": lambda: _mounted(root)}, max_attempts=1)
    machine.versions.go_live(machine.train(1))
    sender.send_due()
    machine.versions.go_live(machine.train(2))
    sender.send_due()
    root.mkdir()
    machine.versions.go_live(machine.versions.resolve("hindi@1"))
    assert sender.send_due() == 1
    assert {upload.version: upload.status for upload in machine.uploads.list()} == {1: "pushed", 2: "failed"}


def test_an_error_that_nobody_foresaw_ends_neither_the_thread_nor_the_push(
    machine: Machine, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    sender = sender_of(machine, clock, {"nas": lambda: folder_store(root)})
    machine.versions.go_live(machine.train(1))
    monkeypatch.setattr(pushing, "send_file", fail)
    assert sender.send_due() == 1
    assert "unexpected ZeroDivisionError" in (only(machine).reason or "")
    monkeypatch.undo()
    clock.now += LONGEST_WAIT
    assert sender.send_due() == 1
    assert only(machine).status is UploadStatus.PUSHED


def test_a_missing_variable_waits_for_whoever_sets_it(machine: Machine, clock: Clock) -> None:
    def unset() -> Store:
        raise SettingsError("store 'nas' needs the environment variable NAS, which is not set")

    machine.versions.go_live(machine.train(1))
    assert sender_of(machine, clock, {"nas": unset}).send_due() == 1
    assert (only(machine).status, "NAS" in (only(machine).reason or "")) == (UploadStatus.PENDING, True)


def test_a_store_that_only_a_newer_configuration_has_waits_for_the_restart(machine: Machine, clock: Clock) -> None:
    machine.versions.go_live(machine.train(1))
    assert sender_of(machine, clock, {}).send_due() == 1
    assert only(machine).status is UploadStatus.PENDING
    assert only(machine).reason == "this service was started without a store 'nas'; restart it"


def test_a_version_that_is_removed_takes_its_pushes_with_it(machine: Machine, root: Path, clock: Clock) -> None:
    version = machine.versions.go_live(machine.train(1))
    machine.versions.remove(version, force=True)
    assert machine.uploads.list() == ()
    assert sender_of(machine, clock, {"nas": lambda: folder_store(root)}).send_due() == 0


def test_a_version_that_is_removed_under_its_push_is_no_error_of_the_thread(
    machine: Machine, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, real = machine.versions.go_live(machine.train(1)), pushing.send_file

    def removed(*arguments: object) -> None:
        if machine.versions.list():
            machine.versions.remove(version, force=True)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pushing, "send_file", removed)
    store = folder_store(root)
    assert sender_of(machine, clock, {"nas": lambda: store}).send_due() == 1
    assert machine.uploads.list() == ()
    assert len(list(store.places())) == 1  # its files were leased until the end


def test_a_start_tries_what_waits_at_once_and_gives_up_what_has_no_store_any_more(
    make_machine: MakeMachine, root: Path, clock: Clock
) -> None:
    machine = make_machine(stores=("nas", "gone"))
    store = TellingStore(root)
    machine.versions.go_live(machine.train(1))
    for upload in machine.uploads.list():
        machine.uploads.postpone(upload, datetime.now(UTC) + timedelta(days=1), "it was away")
    sender = Sender(machine.uploads, machine.versions, {"nas": lambda: store}, max_attempts=3)
    sender.start()
    assert store.completed.wait(30)
    assert sender.stop(30)
    found = {upload.store: (upload.status, upload.reason) for upload in machine.uploads.list()}
    assert found["gone"][0] is UploadStatus.FAILED
    assert "not configured any more" in (found["gone"][1] or "")
    assert len(list(store.places())) == 1
    assert found["nas"] == (UploadStatus.PUSHED, None)


def test_the_thread_is_woken_by_a_version_that_goes_live(
    machine: Machine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LOOK_SECONDS", 3600.0)  # it does not look by itself while the test runs
    store = TellingStore(root)
    sender = Sender(machine.uploads, machine.versions, {"nas": lambda: store}, max_attempts=3)
    machine.versions.when_live(sender.wake)
    sender.start()
    machine.versions.go_live(machine.train(1))
    assert store.completed.wait(30)
    assert sender.stop(30)


def test_without_stores_there_is_no_thread(make_machine: MakeMachine, clock: Clock) -> None:
    machine = make_machine()
    sender = sender_of(machine, clock, {})
    sender.start()
    assert not sender._thread.is_alive()
    assert sender.stop(1)
    machine.versions.go_live(machine.train(1))
    assert machine.uploads.list() == ()


def test_waits_double_to_an_hour_and_no_two_machines_wait_alike() -> None:
    for attempt, seconds in ((1, 5), (2, 10), (5, 80), (10, 2560), (11, 3600), (10_000, 3600)):
        least = timedelta(seconds=seconds)
        assert least <= waiting(attempt) <= least * 1.25
    assert len({waiting(1) for _ in range(5)}) > 1
    assert waiting(1) >= FIRST_WAIT
