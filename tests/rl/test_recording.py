"""Recording beside other work: it never blocks, and says what it could not keep."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from rl.episodes import Episode
from rl.errors import RecordError
from rl.recording import Recorder
from rl.rewards import RewardSettings
from rl.shards import ShardWriter, read_manifest, sealed_shards
from tests.rl.conftest import episode


def recorder_in(folder: Path, **options: Any) -> Recorder:
    return Recorder(ShardWriter(folder, run_id="run-1"), RewardSettings(), **options)


def test_everything_that_was_taken_is_in_a_sealed_shard_after_the_stop(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path)
    recorder.start()
    threads = [
        threading.Thread(target=lambda: [recorder.record(episode) for _ in range(50)]) for _ in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.stop(30)
    (shard,) = sealed_shards(tmp_path)
    assert read_manifest(shard).count == recorder.counts.recorded == 200


def test_when_the_queue_is_full_the_newest_is_dropped_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_in(tmp_path, capacity=3)
    taken = [recorder.record(lambda n=n: episode(output=f"answer {n}")) for n in range(5)]  # type: ignore[misc]
    assert taken == [True, True, True, False, False]
    with caplog.at_level(logging.WARNING):
        recorder.start()
        recorder.stop(30)
    assert recorder.counts.dropped == 2
    assert "2 episodes were not recorded: the queue of 3 was full" in caplog.text
    assert [f"answer {n}" in sealed_shards(tmp_path)[0].read_text() for n in range(5)] == taken


def test_who_records_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    hanging, going_on = threading.Event(), threading.Event()

    def make() -> Episode:
        hanging.set()
        assert going_on.wait(30)
        return episode()

    recorder = recorder_in(tmp_path, capacity=2)
    recorder.start()
    recorder.record(make)
    assert hanging.wait(30)
    assert [recorder.record(episode) for _ in range(3)] == [True, True, False]  # and came back, each time
    going_on.set()
    recorder.stop(30)
    assert recorder.counts.recorded == 3


def test_an_episode_that_cannot_be_written_ends_the_recording_of_no_other(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path)
    recorder.start()
    futures = recorder.record_all(
        [episode, lambda: episode(reward=float("nan")), lambda: episode(run_id="../x"), episode]
    )
    assert futures is not None
    assert [type(future.exception(30)) for future in futures] == [type(None), RecordError, RecordError, type(None)]
    assert [future.result()["episode_index"] for future in (futures[0], futures[3])] == [0, 1]
    recorder.stop(30)
    assert (recorder.counts.recorded, recorder.counts.failed) == (2, 2)


def test_a_folder_that_cannot_be_written_is_said_once_and_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    recorder = recorder_in(tmp_path / "runs")
    recorder.start()
    futures = recorder.record_all([episode] * 3)
    assert futures is not None
    assert all(isinstance(future.exception(30), OSError) for future in futures)
    (tmp_path / "runs").unlink()
    more = recorder.record_all([episode])
    assert more is not None
    assert more[0].result(30)["episode_index"] == 0
    recorder.stop(30)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["episodes are not recorded", "episodes are recorded again; 3 were not"]


def test_all_or_none_of_a_batch_is_taken(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, capacity=3)
    assert recorder.record_all([episode] * 2) is not None
    assert recorder.record_all([episode] * 2) is None
    assert recorder.counts.waiting == 2


def test_after_the_stop_nothing_is_taken(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path)
    recorder.start()
    recorder.stop(30)
    assert recorder.record(episode) is False


def test_what_an_earlier_process_left_is_sealed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "episodes-20260101T000000Z-dead-00000.jsonl.part").write_text('{"n":0}\n')
    sealed = threading.Event()
    recorder = recorder_in(tmp_path, sealed=sealed.set)
    recorder.start()
    assert sealed.wait(30)
    assert read_manifest(sealed_shards(tmp_path)[0]).count == 1
    recorder.stop(30)


def test_a_shard_that_was_full_is_said_at_once(tmp_path: Path) -> None:
    sealed = threading.Event()
    writer = ShardWriter(tmp_path, run_id="run-1", max_bytes=2000)  # one row fits, two do not
    recorder = Recorder(writer, RewardSettings(), sealed=sealed.set)
    recorder.start()
    for _ in range(2):
        recorder.record(episode)
    assert sealed.wait(30)
    recorder.stop(30)


def test_a_flush_seals_what_came_before_it_and_says_so(tmp_path: Path) -> None:
    sealed: list[None] = []
    recorder = recorder_in(tmp_path, sealed=lambda: sealed.append(None))
    recorder.start()
    recorder.record(episode)
    assert recorder.flush(30)
    assert len(sealed_shards(tmp_path)) == len(sealed) == 1
    recorder.stop(30)
