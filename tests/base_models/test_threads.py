"""How many threads are chosen: what may be used, what is paid for, and what was faster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapter_service.base_models.threads import (
    choose_threads,
    cpu_quota,
    most_threads,
    physical_cores,
    usable_threads,
)

TWO = {16: "one on every processor", 8: "one on every core"}


def unasked(count: int) -> float:
    pytest.fail(f"{count} threads were measured")


def test_what_is_set_is_taken_without_measuring() -> None:
    chosen = choose_threads(3, unasked, TWO)
    assert (chosen.count, chosen.reason) == (3, "3 threads, set by model.threads")


def test_one_possibility_is_not_measured() -> None:
    chosen = choose_threads(0, unasked, {1: "one on every core"})
    assert (chosen.count, chosen.reason) == (1, "1 thread, one on every core")


@pytest.mark.parametrize(("speeds", "wanted"), [({16: 700, 8: 900}, 8), ({16: 900, 8: 700}, 16)])
def test_the_faster_count_is_taken_and_both_figures_are_told(speeds: dict[int, float], wanted: int) -> None:
    chosen = choose_threads(0, speeds.__getitem__, TWO)
    assert chosen.count == wanted
    assert chosen.reason.startswith(f"{wanted} threads, {TWO[wanted]}, measured (")
    assert "8 threads" in chosen.reason
    assert f"16 threads {speeds[16]} GFLOP/s" in chosen.reason


@pytest.mark.parametrize(("more", "wanted"), [(102.0, 8), (104.0, 16)])
def test_more_threads_have_to_be_faster_by_more_than_the_probe_is_uncertain(more: float, wanted: int) -> None:
    assert choose_threads(0, {16: more, 8: 100.0}.__getitem__, TWO).count == wanted


def test_one_disturbed_measurement_decides_nothing() -> None:
    """The larger count is the faster one, but was disturbed in all rounds but one."""
    found = {16: iter([40.0, 900.0, 30.0, 20.0, 10.0]), 8: iter([500.0] * 5)}
    assert choose_threads(0, lambda count: next(found[count]), TWO).count == 16


def test_the_counts_of_this_machine_are_possible_ones() -> None:
    counts = usable_threads()
    assert all(1 <= count <= len(os.sched_getaffinity(0)) for count in counts)
    assert most_threads() == max(counts)


def siblings(folder: Path, *groups: str) -> Path:
    """A topology in which each group, such as "0,4", is the hardware threads of one core."""
    for group in groups:
        for number in group.split(","):
            (folder / f"cpu{number}" / "topology").mkdir(parents=True)
            (folder / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(group + "\n")
    return folder


def test_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    topology = siblings(tmp_path, "0,2", "1,3")
    assert physical_cores({0, 1, 2, 3}, topology) == 2
    assert physical_cores({0, 2}, topology) == 1
    assert physical_cores({0, 1}, topology) == 2


def test_processors_of_which_nothing_is_told_are_cores(tmp_path: Path) -> None:
    assert physical_cores({0, 1, 2}, tmp_path) == 3


def group(folder: Path, **quotas: str) -> tuple[Path, Path]:
    """A tree of groups a/b with their cpu.max, and the file that says that this process is in a/b."""
    for place, text in quotas.items():
        path = folder / "groups" / place.replace("_", "/").removeprefix("root")
        path.mkdir(parents=True, exist_ok=True)
        (path / "cpu.max").write_text(text)
    own = folder / "own"
    own.write_text("1:name=systemd:/x\n0::/a/b\n")
    return folder / "groups", own


def test_the_quota_is_the_least_from_the_own_group_upwards(tmp_path: Path) -> None:
    assert cpu_quota(*group(tmp_path, a_b="max 100000\n", a="250000 100000\n", root="400000 100000\n")) == 2.5


def test_a_group_that_a_container_does_not_see_has_the_limit_of_its_root(tmp_path: Path) -> None:
    assert cpu_quota(*group(tmp_path, root="150000 100000\n")) == 1.5


def test_a_group_of_somebody_else_does_not_count(tmp_path: Path) -> None:
    assert cpu_quota(*group(tmp_path, a_c="100000 100000\n", a="max 100000\n")) is None


def test_without_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("quota", "cores", "wanted"),
    [
        (None, 4, {8, 4}),
        (None, 8, {8}),
        (8.0, 4, {8, 4}),
        (6.0, 4, {6, 4}),
        (4.0, 4, {4}),
        (2.5, 4, {3}),
        (0.5, 4, {1}),
    ],
)
def test_no_more_threads_are_tried_than_the_quota_pays_for(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int, wanted: set[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr("adapter_service.base_models.threads.physical_cores", lambda _: cores)
    monkeypatch.setattr("adapter_service.base_models.threads.cpu_quota", lambda: quota)
    assert set(usable_threads()) == wanted
