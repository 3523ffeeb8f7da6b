"""A GGUF becomes a folder once and whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapter_service.base_models import importing
from adapter_service.base_models.importing import import_gguf
from adapter_service.durable import sync_folder
from adapter_service.errors import BaseModelError

FIRST, SECOND = b"GGUF first half, ", b"second half"


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "base.gguf.part1", tmp_path / "base.gguf.part2"]
    for path, content in zip(paths, (FIRST, SECOND), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was converted, in place of a conversion (which takes a minute; the small base had a real one)."""
    seen: list[bytes] = []

    def convert(gguf_file: Path, folder: Path) -> None:
        seen.append(gguf_file.read_bytes())
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(importing, "_convert", convert)
    return seen


def run(parts: Sequence[Path], bases_dir: Path) -> Path:
    return import_gguf(parts, bases_dir, note=lambda _: None)


def test_parts_are_joined_and_known_by_the_digest_of_the_whole(
    parts: list[Path], converted: list[bytes], tmp_path: Path
) -> None:
    folder = run(parts, tmp_path / "bases")
    digest = hashlib.sha256(FIRST + SECOND).hexdigest()
    assert converted == [FIRST + SECOND]
    assert json.loads((folder / "base.json").read_text())["sha256"] == digest
    assert folder.name.startswith(digest[:32])


def test_an_import_is_made_once(parts: list[Path], converted: list[bytes], tmp_path: Path) -> None:
    assert run(parts, tmp_path / "bases") == run(parts, tmp_path / "bases")
    assert len(converted) == 1


def test_nothing_but_the_import_is_left(parts: list[Path], converted: list[bytes], tmp_path: Path) -> None:
    folder = run(parts, tmp_path / "bases")
    assert list((tmp_path / "bases").iterdir()) == [folder]


@pytest.mark.parametrize("faulty", ["_joined", "_convert", "sync_folder"])
def test_a_crash_on_the_way_leaves_nothing(
    parts: list[Path], converted: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: str
) -> None:
    def crash(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(importing, faulty, crash)
    with pytest.raises(OSError, match="no space left"):
        run(parts, tmp_path / "bases")
    assert list((tmp_path / "bases").iterdir()) == []


def test_a_half_made_import_is_never_taken_for_a_whole_one(
    parts: list[Path], converted: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut: not even the clean-up was run."""
    with monkeypatch.context() as cut:
        cut.setattr(shutil, "rmtree", lambda *_, **__: None)
        cut.setattr(importing, "sync_folder", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(parts, tmp_path / "bases")
    assert (run(parts, tmp_path / "bases") / "base.json").is_file()
    assert len(converted) == 2


def test_another_process_that_was_faster_is_no_fault(
    parts: list[Path], converted: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_and_be_overtaken(folder: Path) -> None:
        sync_folder(folder)
        with monkeypatch.context() as other:
            other.setattr(importing, "sync_folder", sync_folder)
            run(parts, tmp_path / "bases")

    monkeypatch.setattr(importing, "sync_folder", sync_and_be_overtaken)
    assert (run(parts, tmp_path / "bases") / "base.json").is_file()


def test_a_file_that_is_no_gguf_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"this is no GGUF file at all, but long enough to be looked at")
    with pytest.raises(BaseModelError, match=r"broken\.gguf cannot be imported: .*Name a folder or a Hub id"):
        run([tmp_path / "broken.gguf"], tmp_path / "bases")
    assert list((tmp_path / "bases").iterdir()) == []
