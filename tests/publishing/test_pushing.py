"""Into a store: whole or not at all, nothing twice, nothing overwritten, and on after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapter_service.errors import AdapterFormatError, StoreError, StoreUnreachableError, UnknownAdapterError
from adapter_service.publishing import pushing
from adapter_service.publishing.folder_store import FolderStore
from adapter_service.publishing.manifest import StoredFile, parse_manifest
from adapter_service.publishing.pushing import push
from adapter_service.publishing.store import Place, Store
from tests.publishing.conftest import BUCKET, Machine, MakeMachine, folder_store, s3_store

FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors")


def place_of(seed: int) -> Place:
    return Place("hindi", f"{seed:064x}")


def test_what_is_pushed_is_there_with_its_manifest(machine: Machine, store: Store, tmp_path: Path) -> None:
    version = machine.train(1)
    pushed = push(version, store)
    assert pushed == pushing.Pushed(FILES, ())
    assert list(store.places()) == [place_of(1)]
    manifest = parse_manifest(store.manifest(place_of(1)) or b"", "here")
    assert (manifest.reference, manifest.base_id, manifest.gate["reasons"]) == (
        "hindi@1", machine.base.identity, ["लाभ 0.2"]
    )  # fmt: skip
    for name, described in manifest.files.items():
        store.get(place_of(1), name, tmp_path / name, described.size_bytes)
        assert (tmp_path / name).read_bytes() == (version.path / name).read_bytes()


def test_pushing_again_sends_nothing(machine: Machine, store: Store) -> None:
    version = machine.train(1)
    push(version, store)
    assert push(version, store) == pushing.Pushed((), FILES)


def test_places_are_those_of_one_adapter_when_one_is_asked_for(machine: Machine, store: Store) -> None:
    for version in (machine.train(1), machine.train(2), machine.train(1, "hindi2")):
        push(version, store)
    assert sorted(store.places("hindi")) == [place_of(1), place_of(2)]
    assert len(list(store.places())) == 3
    assert list(store.places("tamil")) == []


@pytest.mark.parametrize("sent_before", [0, 1, 2])
def test_before_its_manifest_nobody_sees_a_version(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch, sent_before: int
) -> None:
    version, real, calls = machine.train(1), pushing.send_file, []

    def stop_early(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > sent_before:
            raise StoreUnreachableError("the share is gone")
        real(*arguments)

    monkeypatch.setattr(pushing, "send_file", stop_early)
    with pytest.raises(StoreUnreachableError):
        push(version, store)
    assert list(store.places()) == []
    assert store.manifest(place_of(1)) is None
    monkeypatch.undo()
    assert push(version, store) == pushing.Pushed(FILES[sent_before:], FILES[:sent_before])


def test_stopping_ends_between_two_files(machine: Machine, store: Store) -> None:
    answers = iter([False, True])
    assert push(machine.train(1), store, lambda: next(answers)) is None
    assert list(store.places()) == []


def test_other_weights_under_the_same_key_are_refused_and_nothing_is_overwritten(
    make_machine: MakeMachine, store: Store
) -> None:
    here, there = make_machine("here"), make_machine("there")
    mine = here.train(1)
    push(mine, store)
    before = store.manifest(place_of(1))
    other = there.versions.publish(
        "hindi", there.train(2, "other").path, key=mine.key, job_id=None, base_id=mine.base_id
    )
    with pytest.raises(StoreError, match=r"key of hindi@1 \(0+\) and other weights.*nothing is overwritten"):
        push(other, store)
    assert store.manifest(place_of(1)) == before


def test_equal_weights_from_another_machine_are_the_same_version_whatever_its_card_says(
    make_machine: MakeMachine, store: Store
) -> None:
    here, there = make_machine("here"), make_machine("there")
    push(here.train(1), store)
    work = there.train(1, "unused").path
    (work / "README.md").write_text("trained elsewhere, at another time")
    (work / "manifest.json").unlink()
    same = there.versions.publish("hindi", work, key=f"{1:064x}", job_id=None, base_id=here.base.identity)
    assert push(same, store) == pushing.Pushed((), FILES)


def test_damaged_files_are_not_pushed(machine: Machine, store: Store) -> None:
    version = machine.train(1)
    (version.path / "adapter_model.safetensors").write_bytes(b"?")
    with pytest.raises(AdapterFormatError, match="damaged"):
        push(version, store)
    assert list(store.places()) == []


def test_a_version_that_was_removed_cannot_be_pushed(machine: Machine, store: Store) -> None:
    version = machine.train(1)
    machine.versions.remove(version)
    machine.versions.delete_files(version, wait=True)
    with pytest.raises(UnknownAdapterError, match="hindi@1 was removed"):
        push(version, store)


# A process of its own, which ends itself by SIGKILL instead of sending its n-th file.
_KILLED = """
import os, signal, sys
from pathlib import Path
from adapter_service.adapters import VersionStore
from adapter_service.database import Database
from adapter_service.publishing import pushing
from tests.publishing.conftest import folder_store, s3_store

kind, where, state, before = sys.argv[1:]
store = folder_store(Path(where)) if kind == "folder" else s3_store(where)
real, calls = pushing.send_file, []

def send_file(*arguments):
    calls.append(arguments)
    if len(calls) > int(before):
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)

pushing.send_file = send_file
versions = VersionStore(Database(Path(state) / "service.db"), Path(state) / "adapters")
pushing.push(versions.resolve("hindi@1"), store)
"""


def test_a_push_that_was_killed_goes_on_and_sends_no_file_twice(
    machine: Machine, store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    version, is_folder = machine.train(1), isinstance(store, FolderStore)
    where = str(tmp_path / "nas") if is_folder else request.getfixturevalue("s3_endpoint")
    arguments = ["folder" if is_folder else "s3", where, str(machine.folder), "2"]
    done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(store.places()) == []
    assert push(version, store) == pushing.Pushed(FILES[2:], FILES[:2])
    assert list(store.places()) == [place_of(1)]
    if not is_folder:
        kept = request.getfixturevalue("bucket").list_object_versions(Bucket=BUCKET)["Versions"]
        assert len(kept) == len({item["Key"] for item in kept}) == len(FILES) + 1


def test_two_machines_may_push_the_same_version_at_once_into_a_folder(
    make_machine: MakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make_machine("here"), make_machine("there")
    mine, theirs = here.train(1), there.train(1)
    first, second = (folder_store(tmp_path / "nas", writer) for writer in ("w1", "w2"))

    def overtaken(store: Store, place: Place, name: str, path: Path, wanted: StoredFile) -> None:
        store.put(place, name, path, wanted)
        if name == FILES[-1] and store is first:
            push(theirs, second)

    monkeypatch.setattr(pushing, "send_file", overtaken)
    with pytest.raises(StoreUnreachableError, match="another machine has pushed"):
        push(mine, first)
    assert push(mine, first) == pushing.Pushed((), FILES)
    assert [path.name for path in (tmp_path / "nas" / "hindi").iterdir()] == [mine.key]


def test_an_object_that_comes_meanwhile_is_compared_and_not_overwritten(
    machine: Machine, s3_endpoint: str, bucket: Any
) -> None:
    version, store = machine.train(1), s3_store(s3_endpoint)
    key = f"team/hindi/{version.key}/README.md"
    wanted = parse_manifest(_manifest_of(version, store), "here").files["README.md"]
    bucket.put_object(Bucket=BUCKET, Key=key, Body=b"another machine's")
    with pytest.raises(StoreUnreachableError, match="has come to store 'cloud' meanwhile"):
        store.put(place_of(1), "README.md", version.path / "README.md", wanted)
    with pytest.raises(StoreError, match=r"has another README.md.*nothing is overwritten"):
        push(version, store)
    assert bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"another machine's"


def test_an_object_without_a_checksum_is_told_by_its_bytes(machine: Machine, s3_endpoint: str, bucket: Any) -> None:
    version, store = machine.train(1), s3_store(s3_endpoint)
    key = f"team/hindi/{version.key}/README.md"
    bucket.put_object(Bucket=BUCKET, Key=key, Body=(version.path / "README.md").read_bytes())
    assert push(version, store) == pushing.Pushed(FILES[1:], FILES[:1])


def test_a_folder_that_somebody_copies_there_is_neither_touched_nor_taken_for_a_version(
    machine: Machine, tmp_path: Path
) -> None:
    store, version = folder_store(tmp_path / "nas"), machine.train(1)
    half = tmp_path / "nas" / "hindi" / version.key
    half.mkdir(parents=True)
    (half / "README.md").write_text("half")
    with pytest.raises(StoreUnreachableError, match=r"without a manifest, and nothing is overwritten; .* remove it"):
        push(version, store)
    assert [path.name for path in half.iterdir()] == ["README.md"]
    (half / "README.md").unlink()
    half.rmdir()
    assert push(version, store) == pushing.Pushed((), FILES)


def test_a_share_that_is_not_mounted_is_not_made(machine: Machine, tmp_path: Path) -> None:
    store = FolderStore("nas", tmp_path / "mnt", writer="w1")
    with pytest.raises(StoreUnreachableError, match=r"no folder .*mnt; mount the share"):
        push(machine.train(1), store)
    assert not (tmp_path / "mnt").exists()


def test_a_server_that_is_not_there_says_what_to_check(machine: Machine) -> None:
    store = s3_store("http://127.0.0.1:9")
    with pytest.raises(StoreUnreachableError, match=r"s3://adapters/team/\) cannot be reached.*check `endpoint_url`"):
        push(machine.train(1), store)


def test_a_bucket_that_is_not_there_says_what_to_check(machine: Machine, s3_endpoint: str) -> None:
    with pytest.raises(StoreUnreachableError, match="answered 404 NoSuchBucket; there is no such bucket"):
        push(machine.train(1), s3_store(s3_endpoint))


def _manifest_of(version: Any, store: Store) -> bytes:
    from adapter_service.publishing.manifest import manifest_of

    return manifest_of(version).to_bytes()
