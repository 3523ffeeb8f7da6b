"""A database copied in mid-write, with its log, and reopened: what a power cut leaves behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from adapter_service.database import Database
from adapter_service.jobs.job import Job, JobStatus, Phase
from adapter_service.jobs.store import JobStore
from tests.conftest import ROOT

# A process that submits, claims, reports and ends jobs as fast as it can, and says each number once it is committed.
WRITER = """
    import sys
    from pathlib import Path
    from adapter_service.database import Database
    from adapter_service.jobs.job import Phase
    from adapter_service.jobs.store import JobStore

    store = JobStore(Database(Path(sys.argv[1])))
    number = 0
    while True:
        store.create({"n": number}, adapter="hindi", trace_id="t", queue_limit=9, idempotency_key=f"k{number}")
        print(number, flush=True)
        job = store.claim_next()
        store.progress(job, phase=Phase.TRAINING, step=number, metrics={"loss": 1.0, "padding": "x" * 3000})
        store.succeed(job, {"n": number})
        number += 1
"""

# What the writer's jobs go through, and how many of these events there are when a job is so far.
KINDS = ["queued", "running", "phase:training", "succeeded"]
EVENTS: dict[tuple[JobStatus, Phase | None], int] = {
    (JobStatus.QUEUED, None): 1,
    (JobStatus.RUNNING, None): 2,
    (JobStatus.RUNNING, Phase.TRAINING): 3,
    (JobStatus.SUCCEEDED, Phase.TRAINING): 4,
}


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "service.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.send_signal(signal.SIGCONT)
        process.kill()


def jobs_in(path: Path) -> list[Job]:
    """Every job of the database that the next start finds, oldest first; each whole with its events."""
    database = Database(path)
    store = JobStore(database)
    jobs = list(reversed(store.list(limit=1_000_000)))
    for job in jobs:
        kinds = [event.kind for event in store.events(job.id)]
        assert kinds == KINDS[: EVENTS[job.status, job.phase]]
    database.close()
    return jobs


def test_a_copy_in_mid_write_has_everything_that_was_promised(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    """Each copy is of one moment: the writer stands still, wherever it just is."""
    assert writer.stdout
    chance, promised, after = random.Random(0), -1, 0
    for copy in range(12):
        for _ in range(chance.randrange(1, 40)):
            promised = int(writer.stdout.readline())
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
        folder = tmp_path / f"copy-{copy}"
        folder.mkdir()
        for name in ("service.db", "service.db-wal"):
            shutil.copy(tmp_path / name, folder)
        writer.send_signal(signal.SIGCONT)
        jobs = jobs_in(folder / "service.db")
        assert [job.request["n"] for job in jobs] == list(range(len(jobs)))
        assert len(jobs) > promised
        assert all(job.status is JobStatus.SUCCEEDED for job in jobs[:-1])
        after = max(after, len(jobs))
    assert after > 100


def log_of_many_jobs(writer: subprocess.Popen[str], tmp_path: Path) -> bytes:
    """The log while the writer stands still, at a moment when it holds ten jobs that the database has not yet."""
    assert writer.stdout
    while True:
        for _ in range(10):
            writer.stdout.readline()
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
        log = (tmp_path / "service.db-wal").read_bytes()
        alone, whole = (jobs_after_cut(tmp_path, log[:place]) for place in (0, len(log)))
        if len(whole) - len(alone) >= 10:
            return log
        writer.send_signal(signal.SIGCONT)


def jobs_after_cut(tmp_path: Path, log: bytes) -> list[Job]:
    """What the next start finds where the disk has so much of the log."""
    with TemporaryDirectory(dir=tmp_path) as folder:
        cut = Path(folder)
        shutil.copy(tmp_path / "service.db", cut)
        (cut / "service.db-wal").write_bytes(log)
        with closing(sqlite3.connect(cut / "service.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return jobs_in(cut / "service.db")


def test_a_log_that_ends_anywhere_gives_what_was_committed_before(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Whatever of its end the disk did not have any more: whole transactions, the oldest first, and no error."""
    log = log_of_many_jobs(writer, tmp_path)
    counts = []
    for place in sorted(random.Random(0).sample(range(len(log)), 25)):
        jobs = jobs_after_cut(tmp_path, log[:place])
        assert [job.request["n"] for job in jobs] == list(range(len(jobs)))
        counts.append(len(jobs))
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
