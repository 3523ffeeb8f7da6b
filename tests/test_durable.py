"""What is on the disk when a function returns: every byte, and every name that leads to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapter_service.durable import make_folder, rename_new, sync_names, write_whole


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every fsync and rename from now on, by the name of the file or folder that it is of."""
    told: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        told.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name.partition('.json')[0]}")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        told.append(f"rename to {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    return told


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_anyone_goes_on(
    tmp_path: Path, told: list[str]
) -> None:
    (tmp_path / "job").mkdir()
    write_whole(tmp_path / "job" / "place.json", "{}")
    assert told == ["sync .place", "rename to place.json", "sync job"]


def test_a_new_folder_is_known_to_the_one_above_it(tmp_path: Path, told: list[str]) -> None:
    make_folder(tmp_path / "work" / "job" / "stream")
    assert told == [f"sync {tmp_path.name}", "sync work", "sync job"]
    make_folder(tmp_path / "work" / "job" / "stream")
    assert len(told) == 3


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_name_is_given_once(tmp_path: Path) -> None:
    for name in ("a", "b", "taken"):
        (tmp_path / name).write_text(name)
    rename_new(tmp_path / "a", tmp_path / "new")
    assert ((tmp_path / "new").read_text(), (tmp_path / "a").exists()) == ("a", False)
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "b", tmp_path / "taken")
    assert [(tmp_path / name).read_text() for name in ("b", "taken")] == ["b", "taken"]


def test_where_there_are_no_links_a_new_name_is_given_once_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_a_new_name_is_given_once(tmp_path)


def test_a_share_that_waits_for_no_names_is_as_good_and_a_broken_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 22  # EINVAL

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    sync_names(tmp_path)
    number = 5  # EIO
    with pytest.raises(OSError, match="Input/output error"):
        sync_names(tmp_path)
