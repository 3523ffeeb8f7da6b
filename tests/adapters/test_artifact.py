"""An adapter's files: which are allowed, how they appear whole or not at all, how damage is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_service import durable
from adapter_service.adapters import artifact
from adapter_service.adapters.artifact import (
    check_files,
    check_name,
    place_folder,
    seal_folder,
    verify_folder,
    version_key,
)
from adapter_service.errors import AdapterFormatError, InvalidParameterError

KEY = "ab" * 32


def publish_folder(work_folder: Path, target: Path) -> None:
    seal_folder(work_folder)
    place_folder(work_folder, target)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_a_published_folder_is_moved_and_verifies(work: Path, tmp_path: Path) -> None:
    publish_folder(work, tmp_path / "hindi" / KEY)
    assert not work.exists()
    verify_folder(tmp_path / "hindi" / KEY)
    manifest = json.loads((tmp_path / "hindi" / KEY / "manifest.json").read_text())
    assert manifest["adapter_model.safetensors"]["size_bytes"] == 7
    assert manifest.keys() == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("moment", ["write_manifest", "sync"])
def test_a_crash_before_the_manifest_leaves_nothing_visible(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact, moment, power_cut)
    with pytest.raises(KeyboardInterrupt):
        publish_folder(work, tmp_path / "hindi" / KEY)
    assert not (tmp_path / "hindi").exists()
    monkeypatch.undo()
    publish_folder(work, tmp_path / "hindi" / KEY)
    verify_folder(tmp_path / "hindi" / KEY)


def test_a_folder_left_without_a_row_is_replaced(work: Path, tmp_path: Path) -> None:
    left = tmp_path / "hindi" / KEY
    left.mkdir(parents=True)
    (left / "half").write_text("of something")
    publish_folder(work, left)
    verify_folder(left)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "rng.pkl", "x.pth"])
def test_pickles_are_refused(work: Path, name: str) -> None:
    (work / name).write_bytes(b"")
    with pytest.raises(AdapterFormatError, match="may run code"):
        check_files(work)


def test_an_unknown_file_is_refused_with_what_is_allowed(work: Path) -> None:
    (work / "notes.txt").write_text("hello")
    with pytest.raises(AdapterFormatError, match=r"'notes.txt'.*README.md, adapter_config.json"):
        check_files(work)


def test_a_link_is_refused_even_to_a_good_file(work: Path, tmp_path: Path) -> None:
    (work / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    (work / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(AdapterFormatError, match="not a plain file"):
        check_files(work)


def test_a_folder_behind_a_link_and_a_folder_inside_are_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(work)
    with pytest.raises(AdapterFormatError, match="lacks"):
        check_files(tmp_path / "link")
    (work / "README.md").mkdir()
    with pytest.raises(AdapterFormatError, match="not a plain file"):
        check_files(work)


def test_missing_weights_are_named(work: Path) -> None:
    (work / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterFormatError, match=r"lacks adapter_model.safetensors"):
        check_files(work)


@pytest.mark.parametrize("content", [b"Weights", b"weights and more"], ids=["one bit", "longer"])
def test_changed_bytes_are_found(work: Path, tmp_path: Path, content: bytes) -> None:
    publish_folder(work, tmp_path / "hindi" / KEY)
    (tmp_path / "hindi" / KEY / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(
        AdapterFormatError, match=r"damaged: adapter_model.safetensors has .*remove it, then train or pull it again"
    ):
        verify_folder(tmp_path / "hindi" / KEY)


def test_an_added_file_is_found(work: Path, tmp_path: Path) -> None:
    publish_folder(work, tmp_path / "hindi" / KEY)
    (tmp_path / "hindi" / KEY / "README.md").write_text("mine")
    with pytest.raises(AdapterFormatError, match=r"differ in README.md"):
        verify_folder(tmp_path / "hindi" / KEY)


@pytest.mark.parametrize("manifest", [None, "{", "[]"])
def test_a_manifest_that_cannot_be_read_is_damage(work: Path, tmp_path: Path, manifest: str | None) -> None:
    publish_folder(work, tmp_path / "hindi" / KEY)
    path = tmp_path / "hindi" / KEY / "manifest.json"
    path.unlink() if manifest is None else path.write_text(manifest)
    with pytest.raises(AdapterFormatError, match="manifest"):
        verify_folder(tmp_path / "hindi" / KEY)


@pytest.mark.parametrize("name", ["a", "multilingual", "node-7_kitchen.v2", "0" * 64])
def test_ordinary_names_are_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "..", ".a", "A", "a/b", "a\\b", "a b", "a@1", "ä", "a\n", "a\0", "0" * 65, "base", "none"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidParameterError) as error:
        check_name(name)
    assert error.value.parameter == "adapter"


def test_a_key_that_is_no_hash_is_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="not a hash"):
        publish_folder(work, tmp_path / "hindi" / "latest")


def test_the_key_does_not_depend_on_the_order_of_parameters() -> None:
    one = version_key("s", {"lora_r": 16, "seed": 0}, "gemma", None)
    assert one == version_key("s", {"seed": 0, "lora_r": 16}, "gemma", None)
    assert len(one) == 64


@pytest.mark.parametrize(
    "other",
    [
        ("t", {"r": 1}, "b", None),
        ("s", {"r": 2}, "b", None),
        ("s", {"r": 1}, "c", None),
        ("s", {"r": 1}, "b", "p"),
    ],
)
def test_every_ingredient_changes_the_key(other: tuple[str, dict[str, int], str, str | None]) -> None:
    assert version_key("s", {"r": 1}, "b", None) != version_key(*other)


def test_files_are_on_disk_before_the_folder_is_in_its_place(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    real = durable.sync

    def watch(path: Path) -> None:
        synced.append((path.name, (tmp_path / "hindi" / KEY).exists()))
        real(path)

    monkeypatch.setattr(artifact, "sync", watch)
    publish_folder(work, tmp_path / "hindi" / KEY)
    before = [name for name, visible in synced if not visible]
    assert before == ["adapter_config.json", "adapter_model.safetensors", "manifest.json", "work"]
    assert ("hindi", True) in synced
    assert [path.name for path in (tmp_path / "hindi").iterdir()] == [KEY]
