"""What every kind of storage promises: whole, once, never over something else, and gone on with after a kill."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rl.destination import Place
from rl.errors import ConfigError, RefusedError, UnreachableError
from rl.shards import ShardWriter, manifest_path, read_manifest
from rl.shards import sha256_of as sha256_of_file
from rl.to_folder import FolderDestination
from rl.upload_helper import destination_of
from rl.uploading import STATE, Uploader, UploadState
from tests.rl.conftest import There, shard_in


def test_a_shard_arrives_with_its_manifest(there: There, tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    report = Uploader(shard.parent, there.destination).upload()
    assert report.sent == [shard.name]
    assert there.files() == {
        f"ep/{shard.name}": shard.read_bytes(),
        f"ep/{manifest_path(shard).name}": manifest_path(shard).read_bytes(),
    }


def test_what_went_is_not_sent_again(there: There, tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    Uploader(shard.parent, there.destination).upload()
    again = Uploader(shard.parent, there.destination).upload()
    assert (again.sent, again.already_there, again.failed) == ([], [], {})


def test_without_the_state_file_the_storage_is_asked(there: There, tmp_path: Path) -> None:
    """As after a kill between the upload and the note of it."""
    shard = shard_in(tmp_path / "runs")
    Uploader(shard.parent, there.destination).upload()
    (shard.parent / STATE).unlink()
    report = Uploader(shard.parent, there.destination).upload()
    assert (report.sent, report.already_there) == ([], [shard.name])


def test_another_content_of_that_name_is_never_touched(there: There, tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    there.put(f"ep/{shard.name}", b"somebody else's")
    report = Uploader(shard.parent, there.destination).upload()
    assert "nothing is overwritten" in report.failed[shard.name]
    assert there.files() == {f"ep/{shard.name}": b"somebody else's"}


def test_another_content_of_the_same_length_is_another_content(there: There, tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    other = shard.read_bytes().replace(b"Hello", b"Hallo")
    there.put(f"ep/{shard.name}", other)
    assert Uploader(shard.parent, there.destination).upload().failed.keys() == {shard.name}
    assert there.files()[f"ep/{shard.name}"] == other


def test_a_shard_that_changed_after_it_was_sealed_is_not_sent(there: There, tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    shard.write_bytes(shard.read_bytes().replace(b"Hello", b"Hallo"))
    report = Uploader(shard.parent, there.destination).upload()
    assert "is not what its manifest says" in report.failed[shard.name]
    assert there.files() == {}


def test_one_that_fails_holds_up_no_other(in_folder: There, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    bad, good = shard_in(runs, run_id="a"), shard_in(runs, run_id="b")
    in_folder.put(f"ep/{bad.name}", b"other")
    report = Uploader(runs, in_folder.destination).upload()
    assert (report.sent, list(report.failed)) == ([good.name], [bad.name])


def test_one_that_cannot_be_read_holds_up_no_other(
    in_folder: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    bad, good = shard_in(runs, run_id="a"), shard_in(runs, run_id="b")

    def sha256_of(path: Path) -> str:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sha256_of_file(path)

    monkeypatch.setattr("rl.uploading.sha256_of", sha256_of)
    report = Uploader(runs, in_folder.destination).upload()
    assert (report.sent, list(report.failed)) == ([good.name], [bad.name])


def test_one_run_alone_is_sent_and_none_whose_name_holds_its_name(in_folder: There, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    wanted, _, timed = (shard_in(runs, run_id=run_id) for run_id in ("exp", "my-exp-2", "20260101T000000Z-exp"))
    assert Uploader(runs, in_folder.destination, only="exp").upload().sent == [wanted.name]
    assert Uploader(runs, in_folder.destination, only="20260101T000000Z-exp").upload().sent == [timed.name]


def test_a_full_disk_keeps_no_shard_from_going_and_making_room(
    in_folder: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [shard_in(tmp_path / "runs", run_id=run_id) for run_id in ("a", "b")]
    unfinished = shard_in(tmp_path / "runs", run_id="c")
    manifest_path(unfinished).unlink()

    def write_whole(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rl.uploading.write_whole", write_whole)
    monkeypatch.setattr("rl.shards.write_whole", write_whole)
    report = Uploader(tmp_path / "runs", in_folder.destination, keep_bytes=0).upload()
    assert (report.sent, report.failed) == ([shard.name for shard in whole], {})
    assert [shard.exists() for shard in (*whole, unfinished)] == [False, False, True]


def test_a_storage_that_stays_away_is_asked_once_for_each_further_shard(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for run_id in ("a", "b", "c"):
        shard_in(runs, run_id=run_id)
    asked: list[str] = []

    class Away(FolderDestination):
        def send(self, piece, notes):  # type: ignore[no-untyped-def]
            asked.append(piece.name)
            raise UnreachableError("away")

    report = Uploader(runs, Away(tmp_path, Place()), attempts=4, wait=lambda _: False).upload()
    assert (len(report.failed), len(asked)) == (3, 4 + 1 + 1)


def test_a_fault_that_nobody_thought_of_does_not_end_the_background(in_folder: There, tmp_path: Path) -> None:
    arrived = threading.Event()

    class Odd(FolderDestination):
        odd = True

        def send(self, piece, notes):  # type: ignore[no-untyped-def]
            if Odd.odd:
                Odd.odd = False
                raise ValueError("odd")
            arrived.set()
            return super().send(piece, notes)

    shard = shard_in(tmp_path / "runs")
    uploader = Uploader(shard.parent, Odd(tmp_path / "nas", Place()), poll_seconds=0.01)
    uploader.start()
    assert arrived.wait(30)
    uploader.stop()


def test_an_unreachable_storage_is_tried_again_with_growing_pauses(tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    pauses: list[float] = []

    class Away(FolderDestination):
        def send(self, piece, notes):  # type: ignore[no-untyped-def]
            if len(pauses) < 3:
                raise UnreachableError("away")
            return super().send(piece, notes)

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    (tmp_path / "nas").mkdir()
    report = Uploader(shard.parent, Away(tmp_path / "nas", Place()), wait=wait).upload()
    assert report.sent == [shard.name]
    assert 0.5 <= pauses[0] <= 1.0 <= pauses[1] <= 2.0 <= pauses[2] <= 4.0


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    (tmp_path / "nas").write_text("a file where a folder is wanted")
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return False

    destination = FolderDestination(tmp_path / "nas", Place())
    report = Uploader(shard.parent, destination, wait=wait).upload()
    assert "mount the share" in report.failed[shard.name]
    assert waited == []


def test_two_uploaders_do_not_send_from_one_folder(in_folder: There, tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    met: list[Exception] = []

    class Nested(FolderDestination):
        def send(self, piece, notes):  # type: ignore[no-untyped-def]
            with pytest.raises(RefusedError) as error:
                Uploader(shard.parent, in_folder.destination).upload()
            met.append(error.value)
            return super().send(piece, notes)

    Uploader(shard.parent, Nested(tmp_path / "nas", Place())).upload()
    assert "another process uploads" in str(met[0])


def test_sealed_shards_go_by_themselves(in_folder: There, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    arrived = threading.Event()

    class Told(FolderDestination):
        def send(self, piece, notes):  # type: ignore[no-untyped-def]
            outcome = super().send(piece, notes)
            if piece.name.endswith("manifest.json"):
                arrived.set()
            return outcome

    uploader = Uploader(runs, Told(tmp_path / "nas", Place()), poll_seconds=600, keep_bytes=0)
    uploader.start()
    shard = shard_in(runs)
    uploader.wake()
    assert arrived.wait(30)
    uploader.stop()
    assert uploader.sent == 1
    assert not shard.exists()
    assert not manifest_path(shard).exists()


def test_shards_that_went_make_room_the_oldest_first(in_folder: There, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shards = [shard_in(runs, run_id=run_id, filling="x" * 10_000) for run_id in ("a", "b", "c")]
    refused = shard_in(runs, run_id="0", filling="x" * 10_000)
    in_folder.put(f"ep/{refused.name}", b"other")
    size = shards[0].stat().st_size
    report = Uploader(runs, in_folder.destination, keep_bytes=3 * size).upload()
    assert len(report.sent) == 3
    assert [shard.exists() for shard in (refused, *shards)] == [True, False, False, True]
    document = json.loads((runs / STATE).read_text())
    assert set(document["destinations"][in_folder.destination.label]) == {refused.name, shards[2].name}
    assert Uploader(runs, in_folder.destination).upload().sent == []


def test_a_shard_that_grows_is_left_alone(in_folder: There, tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "runs", run_id="run-1")
    writer.append({"a": 1})
    assert Uploader(tmp_path / "runs", in_folder.destination).upload().sent == []
    assert writer.seal() is not None
    assert len(Uploader(tmp_path / "runs", in_folder.destination).upload().sent) == 1


def test_the_state_file_says_what_went_where(in_folder: There, tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    Uploader(shard.parent, in_folder.destination).upload()
    document = json.loads((shard.parent / STATE).read_text())
    entry = document["destinations"][in_folder.destination.label][shard.name]
    assert (entry["status"], entry["name"], entry["count"]) == ("sent", f"ep/{shard.name}", 3)
    assert entry["sha256"] == read_manifest(shard).sha256


def test_what_is_known_of_a_transfer_is_not_taken_for_that_of_another_content(tmp_path: Path) -> None:
    before = read_manifest(shard_in(tmp_path / "runs"))
    changed = replace(before, sha256="0" * 64)
    state = UploadState(tmp_path / "runs", "s3://bucket/")
    state.notes_of(before).write(upload_id="1")
    state.failed(changed, "away")
    assert state.notes(changed) == {}


def test_a_damaged_manifest_holds_up_its_shard_alone(in_folder: There, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    bad, good = shard_in(runs, run_id="a"), shard_in(runs, run_id="b")
    manifest_path(bad).write_text("{")
    uploader = Uploader(runs, in_folder.destination)
    assert uploader.waiting() == 2
    report = uploader.upload()
    assert report.sent == [good.name]
    assert "remove it, and it is made anew" in report.failed[bad.name]
    manifest_path(bad).unlink()
    assert Uploader(runs, in_folder.destination).upload().sent == [bad.name]


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"destinations": 5}'])
def test_a_damaged_state_file_says_what_to_do(in_folder: There, tmp_path: Path, text: str) -> None:
    shard = shard_in(tmp_path / "runs")
    (shard.parent / STATE).write_text(text)
    with pytest.raises(RefusedError, match="remove it: the destination is then asked"):
        Uploader(shard.parent, in_folder.destination).upload()


@pytest.mark.parametrize(
    "path",
    ["s3://bucket/run#3/", "s3://bucket/what?/", "file:///mnt/nas/run#3/", "https://host/run#3/", "s3://bucket/?"],
)
def test_what_an_address_would_lose_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"has a '[?#]' in it"):
        destination_of(path, environ={})


def test_what_is_no_address_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no address"):
        destination_of("https://[host/x/", environ={})


@pytest.mark.parametrize(
    ("path", "number", "name"),
    [
        ("ep/", 0, "ep/episodes-20260101T000000Z-r-00000.jsonl"),
        ("", 0, "episodes-20260101T000000Z-r-00000.jsonl"),
        ("rl/{run_id}/episodes.jsonl", 0, "rl/r/episodes.jsonl"),
        ("rl/{run_id}/episodes.jsonl", 2, "rl/r/episodes-00002.jsonl"),
    ],
)
def test_shards_are_called_by_the_place(path: str, number: int, name: str) -> None:
    assert Place(path).name_of(f"episodes-20260101T000000Z-r-{number:05d}.jsonl") == name
