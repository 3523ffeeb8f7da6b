"""Versions: published once, one live per adapter, rolled back along what really was live."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_service.adapters import Version, VersionStatus, VersionStore
from adapter_service.database import Database
from adapter_service.errors import (
    AdapterFormatError,
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
