"""Logs of jobs: appended with the time, read in pages, never outside their folder."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapter_service.errors import UnknownJobError
from adapter_service.jobs.logs import JobLogs

JOB = "job_" + "0" * 26


@pytest.fixture
def logs(tmp_path: Path) -> JobLogs:
    return JobLogs(tmp_path / "logs", lambda: datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=UTC))


def test_a_line_has_its_time_and_can_be_read_at_once(logs: JobLogs, tmp_path: Path) -> None:
    logs.append(JOB, "step 1 · हिन्दी")
    written = (tmp_path / "logs" / f"{JOB}.log").read_text(encoding="utf-8")
    assert written == "2026-03-01T12:00:00.005000Z step 1 · हिन्दी\n"


def test_every_line_of_a_long_message_has_its_time(logs: JobLogs) -> None:
    logs.append(JOB, "one\ntwo\n")
    assert [line[-3:] for line in logs.read(JOB).lines] == ["one", "two"]


def test_a_page_starts_where_it_is_asked_to(logs: JobLogs) -> None:
    for n in range(10):
        logs.append(JOB, f"line {n}")
    page = logs.read(JOB, start=4, limit=2)
    assert (page.start, page.total, [line[-6:] for line in page.lines]) == (4, 10, ["line 4", "line 5"])
    assert logs.read(JOB, start=99).lines == ()


def test_the_tail_is_the_end(logs: JobLogs) -> None:
    for n in range(10):
        logs.append(JOB, f"line {n}")
    page = logs.tail(JOB, 2)
    assert (page.start, page.total, [line[-6:] for line in page.lines]) == (8, 10, ["line 8", "line 9"])


def test_a_job_that_said_nothing_has_an_empty_log(logs: JobLogs) -> None:
    assert logs.read(JOB).lines == logs.tail(JOB).lines == ()


@pytest.mark.parametrize("job_id", ["../secrets", "job_1", f"{JOB}/../../x", ""])
def test_only_ids_of_jobs_name_a_log(logs: JobLogs, job_id: str) -> None:
    with pytest.raises(UnknownJobError, match="not a job id"):
        logs.tail(job_id)


def test_a_line_that_cannot_be_written_is_told_and_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        JobLogs(tmp_path / "logs").append(JOB, "lost")
    assert "was not written: lost" in caplog.text
