"""Jobs and events in pages, newest first, and what of the steps is kept as events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from adapter_service.database import Database
from adapter_service.errors import NotFoundError, UnknownJobError
from adapter_service.jobs.history import JobHistory, Page
from adapter_service.jobs.job import Job
from adapter_service.jobs.store import JobStore


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "service.db")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def history(database: Database) -> JobHistory:
    return JobHistory(database)


def made(store: JobStore, metadata: Mapping[str, str] | None = None) -> str:
    return store.create({}, adapter="a", trace_id="t", queue_limit=99, asked={"metadata": metadata}).id


def ids(page: Page[Job]) -> list[str]:
    return [job.id for job in page.items]


def test_pages_of_jobs_follow_each_other(store: JobStore, history: JobHistory) -> None:
    jobs = [made(store) for _ in range(5)]
    first = history.jobs(after=None, limit=3, metadata={})
    assert (ids(first), first.has_more) == (jobs[:1:-1], True)
    last = history.jobs(after=jobs[2], limit=2, metadata={})
    assert (ids(last), last.has_more) == (jobs[1::-1], False)
    with pytest.raises(UnknownJobError):
        history.jobs(after="job_0", limit=1, metadata={})


def test_jobs_are_found_by_all_pairs_of_their_metadata(store: JobStore, history: JobHistory) -> None:
    both = made(store, {"team": "hub", "a]b.c": '"$'})
    one = made(store, {"team": "hub"})
    none, empty = made(store), made(store, {"team": ""})

    def found(**wanted: str) -> list[str]:
        return ids(history.jobs(after=None, limit=9, metadata=wanted))

    assert found(team="hub") == [one, both]
    assert found(**{"team": "hub", "a]b.c": '"$'}) == [both]
    assert found(team="") == [empty]
    assert found(other="hub") == []
    without = history.jobs(after=None, limit=9, metadata={}, without_metadata=True)
    assert ids(without) == [none]


def test_a_row_that_was_damaged_hides_no_other(store: JobStore, history: JobHistory, database: Database) -> None:
    good, bad = made(store, {"k": "v"}), made(store)
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET asked = '{' WHERE id = ?", (bad,))
    assert ids(history.jobs(after=None, limit=9, metadata={})) == [good]
    assert ids(history.jobs(after=None, limit=9, metadata={"k": "v"})) == [good]


def test_every_hundredth_of_a_run_leaves_one_event_of_what_was_measured(store: JobStore, history: JobHistory) -> None:
    job_id = made(store)
    running = store.claim_next()
    assert running is not None
    for step in range(1, 1001):
        store.progress(running, step=step, total_steps=1000, metrics={"loss": 1 / step, "samples": {"read": 9}})
    measured = [event for event in history.events(job_id, after=None, limit=999).items if event.kind == "metrics"]
    assert [event.data and event.data["step"] for event in reversed(measured)] == list(range(10, 1001, 10))
    assert measured[0].data == {"step": 1000, "total_steps": 1000, "loss": 0.001}
    assert [event.kind for event in store.events(job_id)] == ["queued", "running"]


def test_a_short_run_leaves_one_for_each_step_that_was_reported(store: JobStore, history: JobHistory) -> None:
    job_id = made(store)
    running = store.claim_next()
    assert running is not None
    store.progress(running, step=0, total_steps=3)
    for step in (1, 1, 2, 3):
        store.progress(running, step=step, total_steps=3, metrics={"loss": 1.0})
    events = history.events(job_id, after=None, limit=99).items
    assert [event.data["step"] for event in events if event.data] == [3, 2, 1]


def test_pages_of_events_follow_each_other(store: JobStore, history: JobHistory) -> None:
    job_id, other = made(store), made(store)
    for _ in range(2):
        store.request_pause(job_id)
        store.request_resume(job_id)
    whole = history.events(job_id, after=None, limit=99)
    assert [event.kind for event in whole.items] == ["queued", "paused", "queued", "paused", "queued"]
    page = history.events(job_id, after=whole.items[1].number, limit=2)
    assert (page.items, page.has_more) == (whole.items[2:4], True)
    with pytest.raises(NotFoundError):
        history.events(other, after=whole.items[1].number, limit=2)
