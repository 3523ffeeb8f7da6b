"""What the next start removes from the state folder, and what it leaves alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_service.adapters import Version, VersionStore
from adapter_service.database import Database
from adapter_service.jobs.job import Job
from adapter_service.jobs.leftovers import IMPORT_SECONDS, remove_leftovers
from adapter_service.jobs.store import JobStore

KEY, OTHER_KEY = "a" * 64, "b" * 64


class State:
    """A state folder with its database, as the next start finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(folder / "service.db")
        self.jobs = JobStore(self.database)
        self.versions = VersionStore(self.database, folder / "adapters")

    def submit(self) -> Job:
        return self.jobs.create({}, adapter="hindi", trace_id="t", queue_limit=9)

    def publish(self, adapter: str, key: str) -> Version:
        work = self.make("work/job_1/artifact")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (work / name).write_text("{}")
        return self.versions.publish(adapter, work, key=key, job_id=None, base_id="b")

    def make(self, place: str) -> Path:
        path = self.folder / place
        path.mkdir(parents=True)
        return path

    def sweep(self) -> None:
        remove_leftovers(self.folder, self.jobs, self.versions)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path)
    yield made
    made.database.close()


def test_the_work_of_jobs_that_wait_is_kept_and_of_all_others_removed(state: State) -> None:
    ended, interrupted, waiting = state.submit(), state.submit(), state.submit()
    for job_id in (ended.id, interrupted.id, waiting.id, "job_unknown"):
        state.make(f"work/{job_id}/checkpoint")
    state.jobs.request_cancel(ended.id)
    assert state.jobs.claim_next() == state.jobs.get(interrupted.id)
    state.sweep()
    assert {path.name for path in (state.folder / "work").iterdir()} == {interrupted.id, waiting.id}


def test_a_checkpoint_that_was_being_written_is_removed_and_the_one_before_it_kept(state: State) -> None:
    folder = f"work/{state.submit().id}"
    half, whole = state.make(f"{folder}/checkpoint.writing"), state.make(f"{folder}/checkpoint.before")
    state.sweep()
    assert (half.exists(), whole.exists()) == (False, True)


def test_an_adapter_folder_whose_row_was_never_written_is_removed(state: State) -> None:
    version = state.publish("hindi", KEY)
    lost = state.make(f"adapters/hindi/{OTHER_KEY}")
    state.sweep()
    assert (version.path.exists(), lost.exists()) == (True, False)


def test_adapters_stay_when_the_database_was_moved_away(state: State) -> None:
    folder = state.make(f"adapters/hindi/{KEY}")
    state.sweep()
    assert folder.exists()


def test_an_import_is_removed_when_no_process_can_be_at_it_any_more(state: State) -> None:
    abandoned, under_way = state.make("bases/import-a/model"), state.make("bases/import-b/model")
    base = state.make("bases/0123-1")
    long_ago = time.time() - IMPORT_SECONDS - 60
    for path in (abandoned.parent, base):
        os.utime(path, (long_ago, long_ago))
    state.sweep()
    assert (abandoned.exists(), under_way.exists(), base.exists()) == (False, True, True)


def test_an_empty_state_folder_has_nothing_to_remove(state: State) -> None:
    state.sweep()
    assert {path.name.partition("-")[0] for path in state.folder.iterdir()} == {"service.db"}


def test_what_cannot_be_removed_is_told_and_holds_nothing_up(
    state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr("adapter_service.jobs.leftovers.shutil.rmtree", refuse)
    state.make("work/job_unknown")
    state.sweep()
    assert "job_unknown cannot be removed" in caplog.text
