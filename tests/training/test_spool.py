"""What was streamed, on disk: all of it comes back, half of a write does not, and damage is seen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapter_service.errors import TrainingError
from adapter_service.rendering import RenderedSample
from adapter_service.samples import Message, Sample
from adapter_service.training import spool as spool_module
from adapter_service.training.dataset import Dataset
from adapter_service.training.spool import Place, Spool, has_samples
from tests.training.small_run import some_samples


def held_out(number: int) -> tuple[Sample, RenderedSample]:
    sample = Sample(
        (Message("system", "s"), Message("user", f"प्रश्न {number}\ud800"), Message("assistant", "उत्तर")),
        language="hi",
        origin=f"corpus:{number}",
        metadata={"source_text": f"question {number}", "source_language": "en"},
    )
    return sample, RenderedSample((5, 6, 7, number), 2)


def dataset_of(trained: int, held: int = 0) -> Dataset:
    dataset = Dataset()
    extend(dataset, trained, held)
    return dataset


def extend(dataset: Dataset, trained: int, held: int = 0) -> None:
    """With the next samples, the same each time."""
    for sample in some_samples(1000)[len(dataset.train) :][:trained]:
        dataset.train_on(sample)
    for number in range(len(dataset.holdout), len(dataset.holdout) + held):
        dataset.hold_out(*held_out(number))


def at(cursor: int, *, ended: bool = False) -> Place:
    return Place("corpus", "corpus", {"line": cursor}, {"read": cursor, "used": cursor}, ended)


def restored(folder: Path, key: str = "key") -> tuple[Dataset, Place]:
    found = Spool(folder, key).restore()
    assert found is not None
    return found


def test_all_of_it_comes_back(tmp_path: Path) -> None:
    dataset = dataset_of(5, held=3)
    dataset.refused, dataset.refusals, dataset.stopped_by = 2, ["too long"], "data.max_train_samples = 5"
    Spool(tmp_path / "stream", "key").keep(dataset, at(10, ended=True))
    assert restored(tmp_path / "stream") == (dataset, at(10, ended=True))
    assert [sample.key for sample in restored(tmp_path / "stream")[0].holdout] == [held_out(n)[0].key for n in range(3)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(parts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=5))
def test_it_is_the_same_however_often_it_was_left_off(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    for trained, held in parts:
        spool = Spool(folder, "key")
        dataset = (spool.restore() or (Dataset(), None))[0]
        extend(dataset, trained, held)
        spool.keep(dataset, at(len(dataset.train)))
    whole = dataset_of(sum(trained for trained, _ in parts), sum(held for _, held in parts))
    assert restored(folder)[0] == whole
    assert restored(folder)[0].samples_hash == whole.samples_hash


def test_it_takes_no_more_on_disk_than_is_counted(tmp_path: Path) -> None:
    dataset = dataset_of(200, held=50)
    Spool(tmp_path, "key").keep(dataset, at(1))
    assert dataset.size_bytes / 5 < (tmp_path / "samples.bin").stat().st_size < dataset.size_bytes


def test_nothing_is_written_before_it_is_due(tmp_path: Path) -> None:
    now = 100.0
    spool = Spool(tmp_path, "key", monotonic=lambda: now)
    assert spool.is_due()
    spool.keep(dataset_of(1), at(1))
    now += 0.9
    assert not spool.is_due()
    now += 0.2
    assert spool.is_due()


class PowerCut(Exception):  # noqa: N818 - it is what happens, not an error of ours
    pass


@pytest.mark.parametrize("at_fsync", [1, 2])
def test_a_power_cut_leaves_what_was_kept_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_fsync: int
) -> None:
    dataset = dataset_of(3)
    spool = Spool(tmp_path, "key")
    spool.keep(dataset, at(3))
    with monkeypatch.context() as patch:
        _cut_at_fsync(patch, at_fsync)
        extend(dataset, 2)
        with pytest.raises(PowerCut):
            spool.keep(dataset, at(5))
    assert (tmp_path / "samples.bin").stat().st_size > 0
    again = Spool(tmp_path, "key")
    found = again.restore()
    assert found == (dataset_of(3), at(3))
    extend(found[0], 4)
    again.keep(found[0], at(7))
    assert restored(tmp_path) == (dataset_of(7), at(7))


def _cut_at_fsync(patch: pytest.MonkeyPatch, at_call: int) -> None:
    calls: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == at_call:
            raise PowerCut
        real(descriptor)

    patch.setattr(os, "fsync", fsync)


def test_half_a_record_at_the_end_is_cut_off(tmp_path: Path) -> None:
    Spool(tmp_path, "key").keep(dataset_of(3), at(3))
    with (tmp_path / "samples.bin").open("ab") as file:
        file.write(b"\x07\x00\x00")
    assert restored(tmp_path) == (dataset_of(3), at(3))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "samples cut short": lambda folder: os.truncate(folder / "samples.bin", 50),
    "a flipped bit": lambda folder: _flip(folder / "samples.bin"),
    "no samples": lambda folder: (folder / "samples.bin").unlink(),
    "half a place": lambda folder: os.truncate(folder / "place.json", 50),
    "a place of an older release": lambda folder: (folder / "place.json").write_text('{"key": "key"}'),
    "a place that is a list": lambda folder: (folder / "place.json").write_text("[]"),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_streamed_anew_with_a_note(tmp_path: Path, damage: str) -> None:
    Spool(tmp_path / "stream", "key").keep(dataset_of(9), at(9))
    DAMAGES[damage](tmp_path / "stream")
    notes: list[str] = []
    assert Spool(tmp_path / "stream", "key", note=notes.append).restore() is None
    assert "streaming from the beginning" in notes[0]
    assert not has_samples(tmp_path / "stream")


def test_nothing_kept_is_nothing_to_say(tmp_path: Path) -> None:
    notes: list[str] = []
    assert Spool(tmp_path, "key", note=notes.append).restore() is None
    assert notes == []


def test_another_stream_is_refused_or_thrown_away(tmp_path: Path) -> None:
    Spool(tmp_path, "key").keep(dataset_of(3), at(3))
    with pytest.raises(TrainingError, match="of a run with another source"):
        Spool(tmp_path, "another").restore()
    notes: list[str] = []
    assert Spool(tmp_path, "another", note=notes.append).restore(discards_other=True) is None
    assert notes == ["the source or the settings changed since the last attempt; streaming from the beginning"]


def test_a_full_disk_costs_no_run_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    notes: list[str] = []
    spool, dataset = Spool(tmp_path, "key", note=notes.append), dataset_of(2)
    spool.keep(dataset, at(2))
    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "write_whole", full)
        extend(dataset, 1)
        spool.keep(dataset, at(3))
    extend(dataset, 1)
    spool.keep(dataset, at(4))
    assert notes == ["streamed samples cannot be kept (OSError); a restart would stream them again"]
    assert restored(tmp_path) == (dataset_of(2), at(2))


def test_the_place_is_json_and_tells_no_address(tmp_path: Path) -> None:
    Spool(tmp_path, "key").keep(dataset_of(2, held=1), at(3))
    told = json.loads((tmp_path / "place.json").read_text())
    assert told["place"]["cursor"] == {"line": 3}
    assert set(told) == {"key", "extent", "place"}
