"""One version, one zip: the same bytes whenever it is packed, and unpacked whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import struct
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.adapters import Version
from adapter_service.delivery.manifest import PackedManifest, parse_packed
from adapter_service.delivery.packing import Recipient, pack
from adapter_service.delivery.tokenizers import tokenizer_of
from adapter_service.delivery.unpacking import Limits, unpack
from adapter_service.errors import AdapterFormatError, AdapterTooLargeError, ConflictError, UnknownAdapterError
from adapter_service.publishing.copying import described
from adapter_service.publishing.manifest import StoredFile
from tests.delivery.shipping import HASH, START, Clock, Machine, write_tokenizer

if TYPE_CHECKING:
    from adapter_service.engine.engine import Engine
    from adapter_service.model_utils import BaseModel

RECIPIENT = Recipient("kitchen-1", "jarvis-small", HASH)
MB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "state", Clock())


@pytest.fixture(autouse=True)
def closed(machine: Machine) -> Any:
    yield
    machine.database.close()


def packed(version: Version, target: Path, **changed: Any) -> bytes:
    options: dict[str, Any] = {"tokenizer_files": write_tokenizer, "max_bytes": 64 * MB, **changed}
    told = pack(version, RECIPIENT, target, **options)
    content = target.read_bytes()
    assert described(BytesIO(content)) == told
    return content


def test_a_zip_has_the_adapter_its_card_the_tokenizer_and_last_a_manifest(machine: Machine, tmp_path: Path) -> None:
    packed(machine.train(), tmp_path / "a.zip")
    with ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "training_metadata.json",
            "manifest.json",
        ]
        manifest = parse_packed(archive.read("manifest.json"))
        files = {name: described(archive.open(name)) for name in archive.namelist()[:-1]}
    assert manifest == PackedManifest(
        node_id="kitchen-1", base_model_id="jarvis-small", dataset_hash=HASH, created_at=START, files=files
    )


def test_packing_twice_gives_the_same_bytes_whatever_the_files_dates_and_the_clock_say(
    machine: Machine, tmp_path: Path
) -> None:
    version = machine.train()
    first = packed(version, tmp_path / "a.zip")
    machine.clock.forward(days=30)
    for path in version.path.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)

    def reversed_files(folder: Path) -> Any:
        return reversed(list(write_tokenizer(folder)))

    assert packed(version, tmp_path / "elsewhere" / "b.zip", tokenizer_files=reversed_files) == first


def test_nothing_in_a_zip_tells_of_this_machine(machine: Machine, tmp_path: Path) -> None:
    version = machine.train(base_name="/home/someone/bases/gemma")
    assert b"someone" in (version.path / "resolved_config.yaml").read_bytes()
    packed(version, tmp_path / "a.zip")
    with ZipFile(tmp_path / "a.zip") as archive:
        assert json.loads(archive.read("adapter_config.json")) == {"base_model_name_or_path": "gemma", "r": 4}
        assert not [name for name in archive.namelist() if b"someone" in archive.read(name)]
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {stat.S_IFREG | 0o644}


def test_a_card_that_names_a_folder_of_this_machine_stays_here(machine: Machine, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "adapter_config.json").write_text("{}")
    (work / "adapter_model.safetensors").write_bytes(b"w")
    (work / "README.md").write_text("base_model: /home/someone/bases/gemma\n")
    (work / "training_metadata.json").write_text('{"url": "https://data.example/a/b", "share": "1/2/3"}')
    work.rename(machine.folder / "work")
    version = machine.versions.publish("hall", machine.folder / "work", key="f" * 64, job_id=None, base_id="base")
    packed(version, tmp_path / "a.zip")
    with ZipFile(tmp_path / "a.zip") as archive:
        assert "README.md" not in archive.namelist()
        assert "training_metadata.json" in archive.namelist()


def test_a_zip_that_would_be_too_large_leaves_nothing_behind(machine: Machine, tmp_path: Path) -> None:
    target = tmp_path / "packed" / "a.zip"
    with pytest.raises(AdapterTooLargeError, match=r"max_artifact_mb allows 1\.1 MB; raise that"):
        packed(machine.train(weights=os.urandom(2 * MB)), target, max_bytes=MB)
    assert list(target.parent.iterdir()) == []


def test_a_damaged_version_is_not_packed(machine: Machine, tmp_path: Path) -> None:
    version = machine.train()
    (version.path / "adapter_model.safetensors").write_bytes(b"?")
    with pytest.raises(AdapterFormatError, match="damaged"):
        packed(version, tmp_path / "packed" / "a.zip")
    assert list((tmp_path / "packed").iterdir()) == []


def test_a_version_that_was_removed_is_not_packed(machine: Machine, tmp_path: Path) -> None:
    version = machine.train()
    machine.versions.remove(version)
    machine.versions.delete_files(version, wait=True)
    with pytest.raises(UnknownAdapterError, match="kitchen@1 was removed"):
        packed(version, tmp_path / "a.zip")


def test_a_tokenizer_replaces_nothing_of_the_adapter(machine: Machine, tmp_path: Path) -> None:
    def hostile(folder: Path) -> Any:
        for name in ("adapter_config.json", "manifest.json", "pickle.bin", "tokenizer.json"):
            (folder / name).write_text("{}")
            yield folder / name

    packed(machine.train(), tmp_path / "a.zip", tokenizer_files=hostile)
    with ZipFile(tmp_path / "a.zip") as archive:
        assert "pickle.bin" not in archive.namelist()
        assert b"package:tiny" in archive.read("adapter_config.json")


def test_a_real_tokenizer_is_there_the_same_each_time_and_can_be_loaded(
    machine: Machine, tiny_base: BaseModel, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    engine = cast("Engine", SimpleNamespace(base=tiny_base))
    version, written = machine.train(), tokenizer_of(engine)
    first = packed(version, tmp_path / "a.zip", tokenizer_files=written)
    assert packed(version, tmp_path / "b.zip", tokenizer_files=written) == first
    unpack(tmp_path / "a.zip", tmp_path / "node")
    assert str(Path(tiny_base.name)).encode() not in first
    there = AutoTokenizer.from_pretrained(tmp_path / "node", local_files_only=True)
    assert there.encode("Licht an, bitte: küche") == tiny_base.tokenizer.encode("Licht an, bitte: küche")


def test_what_was_packed_unpacks_to_the_same_files(machine: Machine, tmp_path: Path) -> None:
    version = machine.train()
    packed(version, tmp_path / "a.zip")
    manifest = unpack(tmp_path / "a.zip", tmp_path / "node" / "adapter")
    folder = tmp_path / "node" / "adapter"
    assert manifest.dataset_hash == HASH
    assert {path.name for path in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert (folder / "adapter_model.safetensors").read_bytes() == (
        version.path / "adapter_model.safetensors"
    ).read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
    with pytest.raises(ConflictError, match="'adapter' already"):
        unpack(tmp_path / "a.zip", folder)


GOOD = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": b"weights" * 50,
    "tokenizer.json": b'{"vocabulary": {}}',
}


def made(
    path: Path,
    files: Mapping[str, bytes] = GOOD,
    *,
    more: Mapping[str | ZipInfo, bytes] | None = None,
    listed: Mapping[str, bytes] | None = None,
    compression: int = ZIP_STORED,
) -> Path:
    """A zip of `files` with the manifest of `listed`; `more` is in it and in no manifest."""
    stored = {name: described(BytesIO(content)) for name, content in (listed or files).items()}
    manifest = PackedManifest.model_construct(
        node_id="n", base_model_id="b", dataset_hash="h", created_at=START, files=stored
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's of duplicate names
        with ZipFile(path, "w", compression) as archive:
            for name, content in [*files.items(), *(more or {}).items()]:
                archive.writestr(name, content)
            archive.writestr("manifest.json", manifest.to_bytes())
    return path


def refused(path: Path, told: str, limits: Limits | None = None) -> None:
    folder = path.parent / "node" / "adapter"
    with pytest.raises(AdapterFormatError, match=told):
        unpack(path, folder, limits)
    assert list(folder.parent.iterdir()) == []


def test_a_plain_zip_of_somebody_else_is_taken(tmp_path: Path) -> None:
    assert unpack(made(tmp_path / "a.zip", compression=ZIP_DEFLATED), tmp_path / "adapter").node_id == "n"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/etc/evil.json",
        "..\\evil.json",
        "sub/evil.json",
        "C:evil.json",
        ".hidden.json",
        "weights.bin",
        "state.pkl",
        "folder/",
        "x" * 200 + ".json",
        "ünïcode.json",
    ],
)
def test_a_name_that_no_adapters_file_has_is_refused(tmp_path: Path, name: str) -> None:
    refused(made(tmp_path / "a.zip", more={name: b"{}"}), r"which no file of an adapter is called|is no plain file")


def test_a_name_that_readers_end_at_different_places_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "a.zip", more={"tokenizer2.json_.txt": b"{}"})
    path.write_bytes(path.read_bytes().replace(b"2.json_.txt", b"2.json\0.txt"))
    refused(path, "'tokenizer2.json', which no file of an adapter is called")


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = ZipInfo("tokenizer_config.json")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(made(tmp_path / "a.zip", more={link: b"/etc/passwd"}), "is no plain file")


def test_two_files_of_one_name_are_refused_also_where_case_alone_differs(tmp_path: Path) -> None:
    refused(made(tmp_path / "a.zip", more={"tokenizer.json": b"other"}), "two of its files have one name")
    refused(made(tmp_path / "b.zip", more={"Tokenizer.json": b"other"}), "two of its files have one name")


def test_a_bomb_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    bomb = {**GOOD, "tokenizer.json": b"0" * 20 * MB}
    path = made(tmp_path / "a.zip", bomb, compression=ZIP_DEFLATED)
    assert path.stat().st_size < MB
    refused(path, "more than 100 times its size")
    refused(path, r"21 MB unpacked; at most 10\.5 MB", Limits(max_bytes=10 * MB))


def test_a_bomb_that_lies_about_its_size_is_stopped_by_what_comes_out(tmp_path: Path) -> None:
    small = {**GOOD, "tokenizer.json": b"0" * 1000}
    bomb = {**GOOD, "tokenizer.json": b"0" * 20 * MB}
    path = made(tmp_path / "a.zip", bomb, listed=small, compression=ZIP_DEFLATED)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 20 * MB), struct.pack("<I", 1000)))
    refused(path, "no zip that can be read|has the hash|more bytes")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    files = {**GOOD, **{f"extra{number}.json": b"{}" for number in range(40)}}
    refused(made(tmp_path / "a.zip", files), "it has 44 files; at most 32")


def test_files_and_manifest_have_to_be_the_same(tmp_path: Path) -> None:
    refused(made(tmp_path / "a.zip", more={"extra.json": b"{}"}), "differ in 'extra.json'")
    refused(made(tmp_path / "b.zip", listed={**GOOD, "lost.json": b"{}"}), "differ in 'lost.json'")
    changed = {**GOOD, "tokenizer.json": b'{"vocabulary": []}'}
    refused(made(tmp_path / "c.zip", changed, listed=GOOD), "tokenizer.json in it has the hash")
    refused(made(tmp_path / "d.zip", {**GOOD, "tokenizer.json": b"{}"}, listed=GOOD), "has 2 bytes where")
    without = {"adapter_config.json": b"{}"}
    refused(made(tmp_path / "e.zip", without), r"names no adapter_model\.safetensors")


def test_without_a_manifest_nothing_is_unpacked(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("adapter_config.json", "{}")
    refused(tmp_path / "a.zip", r"has no manifest\.json")


def test_a_packing_that_is_not_read_is_refused(tmp_path: Path) -> None:
    refused(made(tmp_path / "a.zip", compression=ZIP_BZIP2), "packed in a way that is not read")


def test_the_smallest_change_of_a_zip_is_noticed_or_without_effect(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.zip").read_bytes()
    wanted = dict(GOOD)

    @given(place=st.integers(0, len(whole) - 1), bit=st.integers(0, 7))
    def changed(place: int, bit: int) -> None:
        other = bytearray(whole)
        other[place] ^= 1 << bit
        folder = tmp_path / f"{place}-{bit}"
        (tmp_path / "b.zip").write_bytes(other)
        try:
            unpack(tmp_path / "b.zip", folder)
        except AdapterFormatError:
            assert not folder.exists()
        except ConflictError:
            pass
        else:
            assert {name: (folder / name).read_bytes() for name in wanted} == wanted

    changed()


def test_what_is_cut_short_is_refused(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.zip").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.zip").write_bytes(whole[:length])
        refused(tmp_path / "b.zip", "no zip that can be read")


def test_a_manifest_of_another_shape_is_refused() -> None:
    good = PackedManifest(
        node_id="n",
        base_model_id="b",
        dataset_hash="h",
        created_at=START,
        files={name: StoredFile(size_bytes=0, sha256="0" * 64) for name in GOOD},
    )
    assert parse_packed(good.to_bytes()) == good
    document = json.loads(good.to_bytes())
    for change in ({"format": 2}, {"more": 1}, {"created_at": "2026-11-29T12:00:00"}, {"node_id": ""}):
        with pytest.raises(AdapterFormatError, match=f"{next(iter(change))}"):
            parse_packed(json.dumps({**document, **change}).encode())
    for content in (b"", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(AdapterFormatError, match="is not one"):
            parse_packed(content)
