"""Shards: sealed when full or old, whole after a kill, and with a manifest that says so."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RecordError
from rl.shards import (
    DAMAGED,
    MANIFEST,
    PART,
    ShardWriter,
    _OpenShard,
    manifest_path,
    read_manifest,
    seal_abandoned,
    sealed_shards,
)
from tests.conftest import ROOT

ROW = {"timestamp": "2026-01-01T00:00:00.000Z", "output": "नमस्ते\nदुनिया"}


def test_a_manifest_says_what_the_shard_holds(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, run_id="run-1")
    for number in range(3):
        writer.append({**ROW, "n": number})
    shard = writer.seal()
    assert shard is not None
    content = shard.read_bytes()
    manifest = read_manifest(shard)
    assert (manifest.count, manifest.bytes) == (3, len(content))
    assert manifest.sha256 == hashlib.sha256(content).hexdigest()
    assert manifest.first_at == ROW["timestamp"]
    assert [json.loads(line)["n"] for line in content.decode().split("\n")[:-1]] == [0, 1, 2]


def test_a_full_shard_is_sealed_and_none_is_larger_than_allowed(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, run_id="run-1", max_bytes=1000)
    for number in range(40):
        writer.append({**ROW, "n": number})
    writer.seal()
    shards = sealed_shards(tmp_path)
    assert len(shards) > 2
    assert all(shard.stat().st_size <= 1000 for shard in shards)
    lines = [json.loads(line)["n"] for shard in shards for line in shard.read_bytes().splitlines()]
    assert lines == list(range(40))


def test_an_old_shard_is_sealed_and_a_young_one_is_not(tmp_path: Path) -> None:
    now = 0.0
    writer = ShardWriter(tmp_path, run_id="run-1", max_age_seconds=60, clock=lambda: now)
    writer.append(ROW)
    now = 59.0
    assert writer.seal_if_due() is None
    now = 60.0
    assert writer.seal_if_due() is not None


def test_a_writer_without_rows_leaves_no_file(tmp_path: Path) -> None:
    assert ShardWriter(tmp_path / "runs", run_id="run-1").seal() is None
    assert not (tmp_path / "runs").exists()


def test_two_writers_of_one_run_take_files_of_their_own(tmp_path: Path) -> None:
    writers = [ShardWriter(tmp_path, run_id="run-1") for _ in range(3)]
    for writer in writers:
        writer.append(ROW)
    assert len({writer.seal() for writer in writers}) == 3


def test_what_a_killed_process_wrote_is_sealed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, os.getcwd())\n"
        "from pathlib import Path; from rl.shards import ShardWriter\n"
        "writer = ShardWriter(Path(sys.argv[1]), run_id='dead')\n"
        "for n in range(50): writer.append({'timestamp': 't', 'n': n})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sealed_shards(tmp_path) == []
    (shard,) = seal_abandoned(tmp_path)
    assert sealed_shards(tmp_path) == [shard]
    assert read_manifest(shard).count == 50
    assert read_manifest(shard).run_id == "dead"


def test_a_torn_line_at_the_end_is_put_aside(tmp_path: Path) -> None:
    part = tmp_path / f"episodes-20260101T000000Z-dead-00000.jsonl{PART}"
    part.write_bytes(b'{"n":0}\n{"n":1}\n{"n":2,"outp')
    (shard,) = seal_abandoned(tmp_path)
    assert shard.read_bytes() == b'{"n":0}\n{"n":1}\n'
    assert read_manifest(shard).count == 2
    assert shard.with_name(shard.name + DAMAGED).read_bytes() == b'{"n":2,"outp'


def test_a_shard_whose_manifest_was_not_written_any_more_gets_the_same(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, run_id="run-1")
    writer.append(ROW)
    shard = writer.seal()
    assert shard is not None
    before = manifest_path(shard).read_bytes()
    manifest_path(shard).unlink()
    assert seal_abandoned(tmp_path) == [shard]
    assert manifest_path(shard).read_bytes() == before


@pytest.mark.parametrize("content", [b"no JSON\n[1]\n", b"[1]\n5\n", b'{"a": 1}\n{"cut off', b""])
def test_a_damaged_shard_gets_its_manifest_when_it_shall_go_as_it_is(tmp_path: Path, content: bytes) -> None:
    shard = tmp_path / "episodes-20260101T000000Z-r-00000.jsonl"
    shard.write_bytes(content)
    assert seal_abandoned(tmp_path) == [shard]
    manifest = read_manifest(shard)
    assert (manifest.bytes, manifest.first_at, manifest.last_at) == (len(content), None, None)


def test_the_hundred_thousandth_shard_is_found(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, run_id="run-1")
    writer._number = 100_000
    writer.append(ROW)
    assert [writer.seal()] == sealed_shards(tmp_path)


def test_a_name_that_a_shard_would_not_be_found_by_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="choose another"):
        ShardWriter(tmp_path, run_id="run-1", name="ep-20260101T000000Z-x")


def test_a_name_that_was_sealed_in_this_moment_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "episodes-20260101T000000Z-r-00000.jsonl"
    other, opening = _OpenShard(path, "r", 0.0), Path.open

    def sealed_before(part: Path, *arguments: Any, **options: Any) -> Any:
        other.append(b'{"n":0}\n', "t")
        other.seal()
        return opening(part, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", sealed_before)
        with pytest.raises(FileExistsError):
            _OpenShard(path, "r", 0.0)
    assert path.read_bytes() == b'{"n":0}\n'
    assert list(tmp_path.glob(f"*{PART}")) == []


def test_an_empty_file_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"episodes-20260101T000000Z-dead-00000.jsonl{PART}").touch()
    assert seal_abandoned(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_no_shards(tmp_path: Path) -> None:
    for name in ("mine.jsonl", "mine.jsonl.part", "notes.txt"):
        (tmp_path / name).write_text('{"a": 1}\n')
    assert seal_abandoned(tmp_path) == []
    assert sealed_shards(tmp_path) == []
    assert not list(tmp_path.glob(f"*{MANIFEST}"))


def test_a_disk_that_fills_up_in_the_middle_of_a_row_leaves_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ShardWriter(tmp_path, run_id="run-1")
    writer.append({"n": 0})
    shard = writer._open
    assert shard is not None
    whole = shard.file

    class Full:
        def write(self, data: bytes) -> int:
            whole.write(data[:-1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name: str) -> object:
            return getattr(whole, name)

    monkeypatch.setattr(shard, "file", Full())
    with pytest.raises(OSError, match="No space"):
        writer.append({"n": 1, "long": "x" * 100})
    monkeypatch.setattr(shard, "file", whole)
    writer.append({"n": 2})
    path = writer.seal()
    assert path is not None
    assert path.read_bytes() == b'{"n":0}\n{"n":2}\n'
    assert read_manifest(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_shard_is_begun_in_a_folder_that_holds_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "older").write_bytes(b"x" * 2048)
    writer = ShardWriter(tmp_path, run_id="run-1", max_folder_bytes=2048)
    with pytest.raises(OSError, match="have them sent, or move them away"):
        writer.append(ROW)
    (tmp_path / "older").write_bytes(b"x" * 2047)
    writer.append(ROW)
    assert writer.seal() is not None


def test_a_text_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, run_id="run-1")
    writer.append({"output": "half \udc00"})
    path = writer.seal()
    assert path is not None
    assert json.loads(path.read_text(encoding="utf-8")) == {"output": "half \ufffd"}
