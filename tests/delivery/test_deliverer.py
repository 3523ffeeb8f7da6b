"""A judged version is delivered in the background: later when the store is away, once when the process died."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapter_service.delivery import deliverer as delivering
from adapter_service.delivery import packing
from adapter_service.delivery.artifact_store import Artifact
from adapter_service.delivery.deliverer import Deliverer
from adapter_service.delivery.deliveries import Delivery, DeliveryStatus
from adapter_service.delivery.folder_artifacts import FolderArtifacts
from adapter_service.delivery.signed_urls import UrlSigner
from adapter_service.delivery.unpacking import unpack
from adapter_service.errors import NotReadyError, StoreUnreachableError
from tests.delivery.shipping import START, Clock, Machine, folder_artifacts, objects_in


@pytest.fixture
def clock() -> Clock:
    return Clock()


Reopen = Callable[[], Machine]


@pytest.fixture
def reopen(tmp_path: Path, clock: Clock) -> Iterator[Reopen]:
    """The same machine after its process died; the first call makes it."""
    made: list[Machine] = []

    def again() -> Machine:
        for machine in made:
            machine.database.close()
        made.append(Machine(tmp_path / "state", clock))
        return made[-1]

    yield again
    made[-1].database.close()


@pytest.fixture
def machine(reopen: Reopen) -> Machine:
    machine = reopen()
    machine.add_job("job_1", callback=True)
    return machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The share's folder, which is not there yet."""
    return tmp_path / "nas"


class Dying(FolderArtifacts):
    """A folder whose process dies with the bytes in it, before anybody knows."""

    def put(self, key: str, artifact: Artifact) -> bool:
        super().put(key, artifact)
        raise KeyboardInterrupt


class Telling(FolderArtifacts):
    """A folder that says when something came, or went."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, prefix="adapters", public_url="http://x", signer=UrlSigner(b"k" * 32), now=clock)
        self.came, self.went = threading.Event(), threading.Event()

    def put(self, key: str, artifact: Artifact) -> bool:
        put = super().put(key, artifact)
        self.came.set()
        return put

    def delete(self, key: str) -> None:
        super().delete(key)
        self.went.set()


def zips_in(root: Path) -> list[str]:
    return [name for name in objects_in(root) if name.endswith(".zip")]


def test_what_is_queued_is_packed_uploaded_told_of_and_kept_no_longer_here(
    machine: Machine, root: Path, clock: Clock, tmp_path: Path
) -> None:
    root.mkdir()
    queued = machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(folder_artifacts(root, clock), url_seconds=3600)
    assert (deliverer.deliver_due(), deliverer.delete_due()) == (1, 0)
    found = machine.delivery()
    assert found.status is DeliveryStatus.PUBLISHED
    assert found.expires_at == START + timedelta(hours=1)
    key = f"adapters/kitchen-1/jarvis-small/{queued.dataset_hash}/20261129T120000Z/adapter.zip"
    assert found.object_key == key
    content = (root / key).read_bytes()
    assert (found.size_bytes, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert unpack(root / key, tmp_path / "node").node_id == "kitchen-1"
    assert machine.notices() == [("adapter_ready", "job_1"), ("callback", "job_1")]
    assert machine.kept() == []
    assert deliverer.deliver_due() == 0


def test_a_store_that_is_away_is_asked_every_five_minutes_for_an_hour_then_the_job_has_failed(
    machine: Machine, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    packings = _counted(monkeypatch)
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    machine.queue("job_1", machine.train())
    for attempt in range(1, 13):
        assert deliverer.deliver_due() == 1
        found = machine.delivery()
        assert (found.status, found.attempts) == (DeliveryStatus.PENDING, attempt)
        assert found.next_attempt_at == clock() + timedelta(minutes=5)
        assert "mount the share" in (found.reason or "")
        assert machine.kept() == ["job_1.zip"]
        clock.forward(seconds=299)
        assert deliverer.deliver_due() == 0
        clock.forward(seconds=1)
    assert clock() == START + timedelta(hours=1)
    assert deliverer.deliver_due() == 1
    found = machine.delivery()
    assert found.status is DeliveryStatus.FAILED
    assert (found.reason or "").startswith("given up after 13 attempts: there is no folder")
    assert len(packings) == 1  # nothing is packed anew, let alone trained
    assert machine.kept() == []
    assert machine.notices() == [("callback", "job_1")]
    assert deliverer.deliver_due() == 0


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    packed: list[Path] = []
    real = packing.pack

    def pack(*arguments: Any, **options: Any) -> Any:
        packed.append(arguments[2])
        return real(*arguments, **options)

    monkeypatch.setattr(delivering, "pack", pack)
    return packed


def test_in_dev_the_file_of_a_failed_one_is_kept_also_over_a_restart(
    machine: Machine, root: Path, clock: Clock, reopen: Reopen
) -> None:
    dev = {"environment": "dev", "give_up_seconds": 1}
    machine.queue("job_1", machine.train())
    assert machine.deliverer(folder_artifacts(root, clock), **dev).deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.FAILED
    reopen().deliverer(folder_artifacts(root, clock), **dev).tidy()
    assert machine.kept() == ["job_1.zip"]
    reopen().deliverer(folder_artifacts(root, clock)).tidy()
    assert machine.kept() == []


def test_a_restart_in_the_middle_goes_on_at_its_time_with_what_was_packed(
    machine: Machine, root: Path, clock: Clock, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    packings = _counted(monkeypatch)
    machine.queue("job_1", machine.train())
    machine.deliverer(folder_artifacts(root, clock)).deliver_due()
    again = reopen()
    deliverer = again.deliverer(folder_artifacts(root, clock))
    deliverer.tidy()
    clock.forward(minutes=4)
    assert deliverer.deliver_due() == 0
    clock.forward(minutes=1)
    root.mkdir()
    assert deliverer.deliver_due() == 1
    assert again.delivery().status is DeliveryStatus.PUBLISHED
    assert len(packings) == 1


def test_a_service_that_was_down_for_longer_than_the_hour_tries_once_more(
    machine: Machine, root: Path, clock: Clock, reopen: Reopen
) -> None:
    machine.queue("job_1", machine.train())
    machine.deliverer(folder_artifacts(root, clock)).deliver_due()
    clock.forward(days=3)
    root.mkdir()
    again = reopen()
    assert again.deliverer(folder_artifacts(root, clock)).deliver_due() == 1
    assert again.delivery().status is DeliveryStatus.PUBLISHED


def test_a_crash_between_the_upload_and_its_row_leaves_one_object_which_is_found_again(
    machine: Machine, root: Path, clock: Clock, reopen: Reopen
) -> None:
    root.mkdir()
    machine.queue("job_1", machine.train())
    dying = Dying(root, prefix="adapters", public_url="http://x", signer=UrlSigner(b"k" * 32), now=clock)
    with pytest.raises(KeyboardInterrupt):
        machine.deliverer(dying).deliver_due()
    (there,) = zips_in(root)
    assert machine.delivery().status is DeliveryStatus.PENDING
    again = reopen()
    clock.forward(hours=2)
    assert again.deliverer(folder_artifacts(root, clock)).deliver_due() == 1
    assert (again.delivery().status, again.delivery().object_key) == (DeliveryStatus.PUBLISHED, there)
    assert zips_in(root) == [there]


def test_after_such_a_crash_another_packing_takes_the_place_of_what_lies_there(
    machine: Machine, root: Path, clock: Clock, reopen: Reopen
) -> None:
    root.mkdir()
    machine.queue("job_1", machine.train())
    dying = Dying(root, prefix="adapters", public_url="http://x", signer=UrlSigner(b"k" * 32), now=clock)
    with pytest.raises(KeyboardInterrupt):
        machine.deliverer(dying).deliver_due()
    (machine.folder / "artifacts" / "job_1.zip").unlink()
    again = reopen()
    deliverer = again.deliverer(folder_artifacts(root, clock))
    deliverer._tokenizer_files = _other_tokenizer  # an upgrade writes other files
    assert deliverer.deliver_due() == 1
    (there,) = zips_in(root)
    assert again.delivery().sha256 == hashlib.sha256((root / there).read_bytes()).hexdigest()


def _other_tokenizer(folder: Path) -> Iterator[Path]:
    (folder / "tokenizer.json").write_text("{}")
    yield folder / "tokenizer.json"


def test_a_packed_file_that_was_damaged_on_the_disk_is_packed_anew(machine: Machine, root: Path, clock: Clock) -> None:
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    deliverer.deliver_due()
    first = machine.delivery().sha256
    (machine.folder / "artifacts" / "job_1.zip").write_bytes(b"?")
    root.mkdir()
    clock.forward(minutes=5)
    assert deliverer.deliver_due() == 1
    assert (machine.delivery().status, machine.delivery().sha256) == (DeliveryStatus.PUBLISHED, first)


def test_an_object_is_deleted_when_it_expires(machine: Machine, root: Path, clock: Clock) -> None:
    root.mkdir()
    deliverer = machine.deliverer(folder_artifacts(root, clock), url_seconds=3600)
    machine.queue("job_1", machine.train())
    deliverer.deliver_due()
    clock.forward(seconds=3599)
    assert deliverer.delete_due() == 0
    clock.forward(seconds=1)
    assert deliverer.delete_due() == 1
    assert (machine.delivery().status, machine.delivery().object_key) == (DeliveryStatus.DELETED, None)
    assert objects_in(root) == []
    assert deliverer.delete_due() == 0


def test_an_object_is_deleted_when_its_node_has_it(machine: Machine, root: Path, clock: Clock) -> None:
    root.mkdir()
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    machine.queue("job_1", machine.train())
    deliverer.deliver_due()
    assert machine.deliveries.acknowledge("job_1")
    assert deliverer.delete_due() == 1
    assert machine.delivery().status is DeliveryStatus.DELETED
    assert objects_in(root) == []


def test_a_deletion_waits_for_a_store_that_is_away_for_as_long_as_it_takes(
    machine: Machine, root: Path, clock: Clock, reopen: Reopen
) -> None:
    root.mkdir()
    machine.queue("job_1", machine.train())
    machine.deliverer(folder_artifacts(root, clock)).deliver_due()
    machine.deliveries.acknowledge("job_1")
    root.rename(root.with_name("unmounted"))
    deliverer = reopen().deliverer(folder_artifacts(root, clock))
    for _ in range(30):
        assert deliverer.delete_due() == 1
        assert deliverer.delete_due() == 0
        clock.forward(minutes=5)
    root.with_name("unmounted").rename(root)
    assert deliverer.delete_due() == 1
    assert objects_in(root) == []


def test_asked_for_again_what_was_deleted_is_published_again_without_training(
    machine: Machine, root: Path, clock: Clock
) -> None:
    root.mkdir()
    version = machine.train()
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    first = machine.queue("job_1", version)
    deliverer.deliver_due()
    first = machine.delivery()
    machine.deliveries.acknowledge("job_1")
    deliverer.delete_due()
    clock.forward(days=1)
    machine.queue("job_1", version)
    assert deliverer.deliver_due() == 1
    second = machine.delivery()
    assert second.status is DeliveryStatus.PUBLISHED
    assert second.sha256 == first.sha256
    assert second.object_key is not None
    assert "/20261130T120000Z/" in second.object_key
    assert [kind for kind, _ in machine.notices()] == ["adapter_ready", "callback"] * 2
    assert len(machine.versions.list()) == 1


def test_what_failed_is_published_when_it_is_asked_for_again(machine: Machine, root: Path, clock: Clock) -> None:
    version = machine.train()
    deliverer = machine.deliverer(folder_artifacts(root, clock), give_up_seconds=1)
    machine.queue("job_1", version)
    deliverer.deliver_due()
    assert machine.delivery().status is DeliveryStatus.FAILED
    assert deliverer.delete_due() == 1  # something may lie there; nobody knows while it is away
    root.mkdir()
    machine.queue("job_1", version)
    assert deliverer.deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.PUBLISHED
    assert len(zips_in(root)) == 1


def test_a_failed_one_keeps_its_reason_while_what_it_left_is_deleted(
    machine: Machine, root: Path, clock: Clock
) -> None:
    deliverer = machine.deliverer(folder_artifacts(root, clock), give_up_seconds=1)
    machine.queue("job_1", machine.train())
    deliverer.deliver_due()
    reason = machine.delivery().reason
    assert deliverer.delete_due() == 1
    root.mkdir()
    clock.forward(minutes=5)
    assert deliverer.delete_due() == 1
    assert (machine.delivery().status, machine.delivery().reason) == (DeliveryStatus.FAILED, reason)
    assert machine.delivery().object_key is None


def test_a_damaged_version_fails_at_once(machine: Machine, root: Path, clock: Clock) -> None:
    root.mkdir()
    version = machine.train()
    (version.path / "adapter_model.safetensors").write_bytes(b"?")
    machine.queue("job_1", version)
    assert machine.deliverer(folder_artifacts(root, clock)).deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.FAILED
    assert "damaged" in (machine.delivery().reason or "")
    assert machine.kept() == []


def test_a_version_that_was_removed_fails_at_once(machine: Machine, root: Path, clock: Clock) -> None:
    root.mkdir()
    version = machine.train()
    machine.queue("job_1", version)
    machine.versions.remove(version)
    assert machine.deliverer(folder_artifacts(root, clock)).deliver_due() == 1
    assert (machine.delivery().reason or "").endswith("was removed; there is nothing to deliver any more: " + AGAIN)


AGAIN = "post the commands again"


def test_an_adapter_that_is_too_large_fails_at_once(machine: Machine, root: Path, clock: Clock) -> None:
    root.mkdir()
    machine.queue("job_1", machine.train(weights=bytes(3 << 20)))
    assert machine.deliverer(folder_artifacts(root, clock), max_artifact_mb=1).deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.FAILED
    assert "max_artifact_mb" in (machine.delivery().reason or "")


def test_a_base_that_still_loads_is_waited_for_a_few_seconds_at_a_time(
    machine: Machine, root: Path, clock: Clock
) -> None:
    def loading(folder: Path) -> Iterator[Path]:
        raise NotReadyError("the base still loads")

    root.mkdir()
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    real, deliverer._tokenizer_files = deliverer._tokenizer_files, loading
    assert deliverer.deliver_due() == 1
    assert machine.delivery().next_attempt_at == START + timedelta(seconds=5)
    deliverer._tokenizer_files = real
    clock.forward(seconds=5)
    assert deliverer.deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.PUBLISHED


def test_another_object_under_the_chosen_name_stays_and_the_next_attempt_has_another_name(
    machine: Machine, root: Path, clock: Clock
) -> None:
    foreign = root / f"adapters/kitchen-1/jarvis-small/{'ab' * 32}/20261129T120000Z/adapter.zip"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"from another service")
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    assert deliverer.deliver_due() == 1
    assert (machine.delivery().status, machine.delivery().object_key) == (DeliveryStatus.PENDING, None)
    clock.forward(minutes=5)
    assert deliverer.deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.PUBLISHED
    assert foreign.read_bytes() == b"from another service"
    assert len(zips_in(root)) == 2


def test_two_of_one_second_have_two_names(machine: Machine, root: Path, clock: Clock) -> None:
    root.mkdir()
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    for job_id, weights in (("job_1", b"one"), ("job_2", b"two")):
        if job_id != "job_1":
            machine.add_job(job_id)
        machine.queue(job_id, machine.train(weights=weights))
        assert deliverer.deliver_due() == 1
    assert len(zips_in(root)) == 2


def test_what_is_withdrawn_under_its_upload_is_not_published_and_leaves_nothing(
    machine: Machine, root: Path, clock: Clock
) -> None:
    class Cancelled(FolderArtifacts):
        def put(self, key: str, artifact: Artifact) -> bool:
            put = super().put(key, artifact)
            assert machine.deliveries.withdraw("job_1")
            return put

    root.mkdir()
    store = Cancelled(root, prefix="adapters", public_url="http://x", signer=UrlSigner(b"k" * 32), now=clock)
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(store)
    assert deliverer.deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.WITHDRAWN
    assert len(zips_in(root)) == 1
    assert deliverer.delete_due() == 1
    assert (objects_in(root), machine.kept()) == ([], [])
    assert machine.notices() == [("callback", "job_1")]  # that the job was cancelled, and of no artifact


def test_what_is_withdrawn_while_it_is_packed_is_not_uploaded(machine: Machine, root: Path, clock: Clock) -> None:
    root.mkdir()
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    real = deliverer._tokenizer_files

    def withdrawing(folder: Path) -> Any:
        machine.deliveries.withdraw("job_1")
        return real(folder)

    deliverer._tokenizer_files = withdrawing
    assert deliverer.deliver_due() == 1
    assert (objects_in(root), machine.kept()) == ([], [])
    assert machine.delivery().status is DeliveryStatus.WITHDRAWN


def test_what_killed_processes_left_is_removed_at_the_start(machine: Machine, root: Path, clock: Clock) -> None:
    folder = machine.folder / "artifacts"
    (folder / f"{packing.PART_PREFIX}x" / "tokenizer").mkdir(parents=True)
    machine.queue("job_1", machine.train())
    for name in ("job_1.zip", "job_gone.zip"):
        (folder / name).write_bytes(b"packed")
    machine.deliverer(folder_artifacts(root, clock)).tidy()
    assert machine.kept() == ["job_1.zip"]


def test_an_error_that_nobody_foresaw_ends_neither_the_thread_nor_the_delivery(
    machine: Machine, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    root.mkdir()
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(folder_artifacts(root, clock))
    with monkeypatch.context() as broken, caplog.at_level(logging.CRITICAL):
        broken.setattr(delivering, "pack", fail)
        assert deliverer.deliver_due() == 1
    assert "unexpected ZeroDivisionError" in (machine.delivery().reason or "")
    clock.forward(minutes=5)
    assert deliverer.deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.PUBLISHED


def test_a_full_disk_of_this_machine_is_waited_for(
    machine: Machine, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    root.mkdir()
    machine.queue("job_1", machine.train())
    monkeypatch.setattr(delivering, "pack", full)
    assert machine.deliverer(folder_artifacts(root, clock)).deliver_due() == 1
    found = machine.delivery()
    assert (found.status, "is full; make room" in (found.reason or "")) == (DeliveryStatus.PENDING, True)


def test_no_url_and_no_token_comes_to_the_log(
    machine: Machine, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    root.mkdir()
    store = folder_artifacts(root, clock)
    deliverer = machine.deliverer(store)
    machine.queue("job_1", machine.train())
    with caplog.at_level(logging.DEBUG):
        deliverer.deliver_due()
        found = machine.delivery()
        assert found.object_key is not None
        assert found.expires_at is not None
        url = store.url(found.object_key, node_id="kitchen-1", expires_at=found.expires_at)
        machine.deliveries.acknowledge("job_1")
        deliverer.delete_due()
    assert "published the adapter of job job_1" in caplog.text
    assert url.split("/")[-2] not in caplog.text


def test_the_thread_is_woken_and_tells_that_something_is_settled(
    machine: Machine, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "LOOK_SECONDS", 3600.0)  # it does not look by itself while the test runs
    root.mkdir()
    store, settled = Telling(root, clock), threading.Event()
    deliverer = machine.deliverer(store)
    deliverer._when_settled = settled.set
    deliverer.start()
    machine.queue("job_1", machine.train())
    deliverer.wake()
    assert store.came.wait(30)
    assert settled.wait(30)
    machine.deliveries.acknowledge("job_1")
    deliverer.wake()
    assert store.went.wait(30)
    assert deliverer.stop(30)
    assert machine.delivery().status is DeliveryStatus.DELETED


def test_a_stop_begins_nothing_else(machine: Machine, root: Path, clock: Clock) -> None:
    deliverer: Deliverer = machine.deliverer(folder_artifacts(root, clock))
    assert deliverer.stop(1)
    machine.queue("job_1", machine.train())
    assert deliverer.deliver_due() == 0


def test_a_store_that_goes_away_under_an_upload_is_asked_again_with_the_same_name(
    machine: Machine, root: Path, clock: Clock
) -> None:
    class Flaky(FolderArtifacts):
        keys: list[str]

        def put(self, key: str, artifact: Artifact) -> bool:
            self.keys.append(key)
            if len(self.keys) < 3:
                raise StoreUnreachableError("reset by peer")
            return super().put(key, artifact)

    root.mkdir()
    store = Flaky(root, prefix="adapters", public_url="http://x", signer=UrlSigner(b"k" * 32), now=clock)
    store.keys = []
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(store)
    for _ in range(3):
        assert deliverer.deliver_due() == 1
        clock.forward(minutes=5)
    assert len(set(store.keys)) == 1
    assert machine.delivery().status is DeliveryStatus.PUBLISHED


def test_a_deletion_that_fails_as_nobody_foresaw_comes_later_and_holds_up_no_other(
    machine: Machine, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    root.mkdir()
    machine.add_job("job_2")
    version, store = machine.train(), Telling(root, clock)
    machine.queue("job_1", version)
    machine.queue("job_2", version, node_id="hall")
    deliverer = machine.deliverer(store)
    assert deliverer.deliver_due() == 2
    broken = machine.delivery().object_key

    def delete(key: str) -> None:
        if key == broken:
            raise RuntimeError("nobody foresaw this")
        FolderArtifacts.delete(store, key)

    store.delete = delete  # type: ignore[method-assign]
    machine.deliveries.acknowledge("job_1")
    machine.deliveries.acknowledge("job_2")
    assert deliverer.delete_due() == 2
    assert machine.delivery().next_attempt_at == clock() + timedelta(minutes=5)
    assert machine.delivery("job_2").status is DeliveryStatus.DELETED
    (record,) = [record for record in caplog.records if getattr(record, "action", "") == "not_deleted"]
    assert record.exc_info is not None


def test_an_error_that_nobody_foresaw_between_the_steps_does_not_end_the_thread(
    machine: Machine, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    monkeypatch.setattr(delivering, "LOOK_SECONDS", 0.01)
    store, look, faults = Telling(root, clock), machine.deliveries.next, [RuntimeError("nobody foresaw this")]

    def looked() -> Delivery | None:
        if faults:
            raise faults.pop()
        return look()

    monkeypatch.setattr(machine.deliveries, "next", looked)
    machine.queue("job_1", machine.train())
    deliverer = machine.deliverer(store)
    deliverer.start()
    assert store.came.wait(10)
    assert deliverer.stop(30)
    assert machine.delivery().status is DeliveryStatus.PUBLISHED
