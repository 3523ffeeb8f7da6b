"""Versions: published once, one live per adapter, rolled back along what really was live."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_service.adapters import Version, VersionStatus, VersionStore
from adapter_service.adapters.artifact import place_folder
from adapter_service.adapters.lease import Lease
from adapter_service.database import MIGRATIONS, Database
from adapter_service.errors import (
    AdapterFormatError,
    ConflictError,
    InvalidParameterError,
    NoVersionToRollBackError,
    SupersededError,
    UnknownAdapterError,
)


class Shelf:
    """A version store with a database and a way to publish small adapters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(folder / "service.db")
        self.store = VersionStore(self.database, folder / "adapters")

    def publish(self, content: int, name: str = "hindi", parent: Version | None = None) -> Version:
        work = self.folder / "work" / f"{name}{content}"
        work.mkdir(parents=True, exist_ok=True)
        (work / "adapter_config.json").write_text("{}")
        (work / "adapter_model.safetensors").write_bytes(bytes([content]))
        return self.store.publish(
            name,
            work,
            key=f"{content:064x}",
            job_id="job_1",
            base_id="gemma",
            parent_key=parent.key if parent else None,
            gate={"loss": 2.5},
        )

    def live(self, content: int, name: str = "hindi") -> Version:
        return self.store.go_live(self.publish(content, name))


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.database.close()


def test_a_published_version_is_a_candidate_with_all_it_came_from(shelf: Shelf) -> None:
    first = shelf.live(1)
    second = shelf.publish(2, parent=first)
    assert (second.number, second.status, second.parent_key) == (2, VersionStatus.CANDIDATE, first.key)
    assert (second.job_id, second.base_id, second.gate) == ("job_1", "gemma", {"loss": 2.5})
    assert second.created_at.utcoffset() is not None
    shelf.store.verify(second)


def test_publishing_the_same_key_again_gives_the_same_version(shelf: Shelf) -> None:
    first = shelf.live(1)
    again = shelf.publish(1)
    assert again == first
    assert shelf.store.list() == (first,)


def test_a_crash_between_folder_and_row_is_mended_by_publishing_again(shelf: Shelf) -> None:
    folder = shelf.publish(1).path
    with shelf.database.transaction() as connection:
        connection.execute("DELETE FROM versions")
        connection.execute("DELETE FROM version_events")
    assert shelf.store.list() == ()
    assert shelf.publish(1).path == folder
    shelf.store.verify(shelf.store.resolve("hindi@1"))


def test_numbers_count_per_adapter(shelf: Shelf) -> None:
    published = [shelf.publish(1), shelf.publish(2), shelf.publish(1, "tamil")]
    assert [version.reference for version in published] == ["hindi@1", "hindi@2", "tamil@1"]


def test_going_live_retires_what_was_live(shelf: Shelf) -> None:
    shelf.live(1)
    shelf.live(2)
    assert [(v.number, v.status) for v in shelf.store.list()] == [(2, "live"), (1, "retired")]
    assert shelf.store.resolve("hindi").number == 2


def test_going_live_twice_changes_nothing(shelf: Shelf) -> None:
    live = shelf.live(1)
    assert shelf.store.go_live(live) == live
    with pytest.raises(NoVersionToRollBackError):
        shelf.store.rollback("hindi")


def test_a_decision_on_a_stale_version_is_refused_and_changes_nothing(shelf: Shelf) -> None:
    live, candidate = shelf.live(1), shelf.publish(2)
    shelf.store.reject(candidate, ["No gain."])
    with pytest.raises(SupersededError, match=r"hindi@2 is no longer candidate"):
        shelf.store.go_live(candidate)
    assert shelf.store.live("hindi") == live


def test_a_rejected_version_is_listed_with_its_reasons_and_served_by_number_only(shelf: Shelf) -> None:
    rejected = shelf.store.reject(shelf.publish(1), ["Loss rose from 2.1 to 2.4."], {"passed": False})
    assert rejected.gate == {"passed": False, "reasons": ["Loss rose from 2.1 to 2.4."]}
    assert shelf.store.list() == (rejected,)
    assert shelf.store.resolve("hindi@1") == rejected
    with pytest.raises(UnknownAdapterError, match=r"there are: hindi@1 \(rejected\)"):
        shelf.store.resolve("hindi")


def test_a_live_version_cannot_be_rejected_by_training_it_again(shelf: Shelf) -> None:
    live = shelf.live(1)
    assert shelf.store.reject(shelf.publish(1), ["No gain over itself."]) == live


def test_rollbacks_follow_what_was_live_to_the_first(shelf: Shelf) -> None:
    for content in (1, 2, 3):
        shelf.live(content)
    assert shelf.store.rollback("hindi").number == 2
    assert shelf.store.rollback("hindi").number == 1
    with pytest.raises(NoVersionToRollBackError, match="hindi@1 is the first"):
        shelf.store.rollback("hindi")
    assert [v.status for v in shelf.store.list()] == ["retired", "retired", "live"]


def test_a_rollback_never_brings_back_what_was_rolled_back(shelf: Shelf) -> None:
    shelf.live(1)
    shelf.live(2)
    shelf.store.rollback("hindi")
    shelf.live(3)
    assert shelf.store.rollback("hindi").number == 1


def test_a_rollback_skips_rejected_versions(shelf: Shelf) -> None:
    shelf.live(1)
    shelf.store.reject(shelf.publish(2), ["No."])
    shelf.live(3)
    assert shelf.store.rollback("hindi").number == 1


def test_a_retired_version_may_go_live_again(shelf: Shelf) -> None:
    shelf.live(1)
    shelf.live(2)
    assert shelf.store.go_live(shelf.store.resolve("hindi@1")).status == "live"
    assert shelf.store.rollback("hindi").number == 2


def test_one_adapter_does_not_touch_another(shelf: Shelf) -> None:
    shelf.live(1)
    shelf.live(1, "tamil")
    shelf.live(2, "tamil")
    shelf.store.rollback("tamil")
    assert {v.reference for v in shelf.store.list() if v.status == "live"} == {"hindi@1", "tamil@1"}


def test_keys_have_the_names_of_their_versions(shelf: Shelf) -> None:
    first, second = shelf.publish(1), shelf.publish(2)
    assert shelf.store.references([first.key, second.key, "f" * 64]) == {first.key: "hindi@1", second.key: "hindi@2"}
    assert shelf.store.references([]) == {}


def test_an_unknown_name_gets_a_guess_and_the_known_ones(shelf: Shelf) -> None:
    shelf.live(1)
    shelf.live(1, "tamil")
    with pytest.raises(UnknownAdapterError, match=r"'hindy'; did you mean 'hindi'\? known: hindi, tamil"):
        shelf.store.resolve("hindy")


@pytest.mark.parametrize("reference", ["", "../hindi", "hindi@", "hindi@2", "hindi@x", "hindi@-1", "hindi@²", "base"])
def test_what_names_no_version_is_unknown(shelf: Shelf, reference: str) -> None:
    shelf.live(1)
    with pytest.raises(UnknownAdapterError):
        shelf.store.resolve(reference)


def test_rolling_back_an_unknown_adapter_is_unknown(shelf: Shelf) -> None:
    with pytest.raises(UnknownAdapterError, match="none is trained yet"):
        shelf.store.rollback("hindi")


def test_a_bad_name_is_refused_before_anything_is_moved(shelf: Shelf) -> None:
    with pytest.raises(InvalidParameterError):
        shelf.publish(1, "Hindi")
    assert (shelf.folder / "work" / "Hindi1").is_dir()


def test_damage_on_disk_is_found(shelf: Shelf) -> None:
    version = shelf.publish(1)
    (version.path / "adapter_model.safetensors").write_bytes(b"?")
    with pytest.raises(AdapterFormatError, match="damaged"):
        shelf.store.verify(version)


def test_a_removed_version_is_found_by_nobody_and_its_number_is_not_given_again(shelf: Shelf) -> None:
    shelf.live(1)
    removed = shelf.publish(2)
    assert shelf.store.remove(removed) is None
    with pytest.raises(UnknownAdapterError):
        shelf.store.resolve("hindi@2")
    assert shelf.store.delete_files(removed, wait=False)
    assert not removed.path.exists()
    assert shelf.publish(3).reference == "hindi@3"
    assert shelf.publish(2).reference == "hindi@4"


def test_the_live_version_is_removed_by_force_only_and_the_one_below_is_live_again(shelf: Shelf) -> None:
    first, second = shelf.live(1), shelf.live(2)
    with pytest.raises(ConflictError, match=r"hindi@2 is live and answers under the name 'hindi'; roll back"):
        shelf.store.remove(second)
    assert shelf.store.live("hindi") == second
    revived = shelf.store.remove(second, force=True)
    assert revived is not None
    assert (revived.number, revived.status) == (first.number, VersionStatus.LIVE)
    assert shelf.store.remove(revived, force=True) is None
    assert shelf.store.live("hindi") is None


def test_rollbacks_pass_over_what_was_removed(shelf: Shelf) -> None:
    shelf.live(1)
    second = shelf.live(2)
    shelf.store.go_live(shelf.store.resolve("hindi@1"))
    shelf.live(3)
    shelf.store.remove(shelf.store.resolve(second.reference))
    assert shelf.store.rollback("hindi").number == 1
    with pytest.raises(NoVersionToRollBackError):  # and not once more to the same
        shelf.store.rollback("hindi")


def test_removing_what_is_not_there_says_what_is(shelf: Shelf) -> None:
    version = shelf.publish(1)
    shelf.publish(2)
    shelf.store.remove(version)
    with pytest.raises(UnknownAdapterError, match=r"there are: hindi@2 \(candidate\)"):
        shelf.store.remove(version)


def test_files_stay_while_a_request_reads_them_and_go_with_the_last(shelf: Shelf) -> None:
    version = shelf.publish(1)
    first, second = Lease(version.path), Lease(version.path)
    shelf.store.remove(version)
    first.release()
    assert not shelf.store.delete_files(version, wait=False)
    assert shelf.store.sweep() == []
    shelf.store.verify(version)
    second.release()
    assert shelf.store.sweep() == [version.key]
    assert not version.path.exists()
    with pytest.raises(FileNotFoundError):
        Lease(version.path)


def test_a_removal_that_was_cut_short_is_finished_by_the_next_sweep(shelf: Shelf) -> None:
    version = shelf.publish(1)
    shelf.store.remove(version)  # and the power goes
    assert version.path.exists()
    assert shelf.store.sweep() == [version.key]
    assert not version.path.exists()


def test_a_deletion_that_was_cut_short_leaves_nothing_for_good(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    version = shelf.publish(1)
    shelf.store.remove(version)
    monkeypatch.setattr("adapter_service.adapters.versions.shutil.rmtree", power_cut)
    with pytest.raises(KeyboardInterrupt):
        shelf.store.delete_files(version, wait=True)
    monkeypatch.undo()
    assert shelf.store.sweep() == []
    assert list((shelf.folder / "adapters").iterdir()) == [shelf.folder / "adapters" / "hindi"]
    assert list((shelf.folder / "adapters" / "hindi").iterdir()) == []


def test_a_sweep_in_another_process_waits_for_a_deletion_that_begins(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, make = shelf.publish(1), tempfile.mkdtemp
    shelf.store.remove(version)
    other = Database(shelf.folder / "service.db", busy_seconds=0.01)

    def make_and_be_swept(**options: Any) -> str:
        made: str = make(**options)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            VersionStore(other, shelf.folder / "adapters").sweep()
        return made

    monkeypatch.setattr("adapter_service.adapters.versions.tempfile.mkdtemp", make_and_be_swept)
    assert shelf.store.delete_files(version, wait=True)
    other.close()
    assert not version.path.exists()


def test_a_sweep_takes_no_version_that_has_its_row(shelf: Shelf) -> None:
    kept, removed = shelf.publish(1), shelf.publish(2)
    shelf.store.remove(removed)
    again = shelf.publish(2)
    assert shelf.store.sweep() == []
    for version in (kept, again):
        shelf.store.verify(version)


def test_what_was_published_again_is_not_deleted_with_what_it_replaces(shelf: Shelf) -> None:
    removed = shelf.publish(1)
    shelf.store.remove(removed)
    again = shelf.publish(1)
    assert again.path == removed.path
    assert shelf.store.delete_files(removed, wait=True)
    shelf.store.verify(again)


def test_a_publication_under_way_in_another_process_is_not_swept(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.publish(1)
    other = Database(shelf.folder / "service.db", busy_seconds=0.01)

    def place_and_be_swept(work: Path, target: Path) -> None:
        place_folder(work, target)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            VersionStore(other, shelf.folder / "adapters").sweep()

    monkeypatch.setattr("adapter_service.adapters.versions.place_folder", place_and_be_swept)
    version = shelf.publish(2)
    assert VersionStore(other, shelf.folder / "adapters").sweep() == []
    other.close()
    shelf.store.verify(version)


def test_every_change_leaves_an_event(shelf: Shelf) -> None:
    shelf.live(1)
    shelf.store.reject(shelf.publish(2), ["No gain."])
    shelf.live(3)
    shelf.store.rollback("hindi")
    shelf.store.remove(shelf.store.resolve("hindi@2"))
    events = shelf.database.read("SELECT version, kind FROM version_events ORDER BY number")
    assert [(row["version"], row["kind"]) for row in events] == [
        (1, "candidate"), (1, "live"), (2, "candidate"), (2, "rejected"), (3, "candidate"), (3, "live"), (1, "live"),
        (2, "removed"),
    ]  # fmt: skip


def test_versions_of_an_older_database_keep_their_numbers(tmp_path: Path) -> None:
    database = Database(tmp_path / "service.db", MIGRATIONS[:3])
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO versions VALUES ('hindi', 7, ?, 'live', '2026-01-01T00:00:00+00:00', NULL, 'b', NULL, '{}')",
            (f"{7:064x}",),
        )
    database.close()
    shelf = Shelf(tmp_path)
    assert shelf.publish(1).number == 8
    shelf.database.close()
