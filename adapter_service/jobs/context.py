"""What a running job has in its hands: whether to stop, where to report, where to log.

Safe to use from any thread, because the training loop runs on the thread that owns the model.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from adapter_service.jobs.job import Job, Phase
from adapter_service.jobs.logs import JobLogs
from adapter_service.jobs.store import JobStore

# A report is a commit to disk; a small model takes more steps in a second than anyone can read. A question
# is a read of the database, and a fast source has thousands of records in a second.
REPORT_SECONDS = ASK_SECONDS = 0.5

logger = logging.getLogger(__name__)


class JobContext:
    def __init__(
        self,
        store: JobStore,
        job: Job,
        logs: JobLogs,
        stopping: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._job = job
        self._logs = logs
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._unwritten: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        self._phase: Phase | None = None
        self._written_at = float("-inf")
        self._asked_at = float("-inf")
        self._cancelled = False
        self._stopping = stopping

    def cancelled(self) -> bool:
        """Whether the user asked for an end or a pause; then raise `JobCancelledError`.

        Cheap enough to ask at every record: the table is read at most every `ASK_SECONDS`.

        Raises:
            SupersededError: another attempt has taken over; let it pass, nothing more can be written.
        """
        with self._lock:
            if not self._cancelled and self._monotonic() - self._asked_at >= ASK_SECONDS:
                self._asked_at = self._monotonic()
                self._cancelled = self._ask()
            return self._cancelled

    def stopping(self) -> bool:
        """Whether the service shuts down; then raise `JobCancelledError` too: the job will queue again."""
        return self._stopping()

    def check_wanted(self, connection: sqlite3.Connection) -> None:
        """As `JobStore.check_wanted`, for what the job does for good."""
        self._store.check_wanted(connection, self._job)

    def log(self, message: str) -> None:
        self._logs.append(self._job.id, message)
        logger.info(message, extra={"action": "job_log", "job_id": self._job.id})

    def report(
        self, *, phase: Phase | None = None, step: int | None = None, total: int | None = None, **metrics: Any
    ) -> None:
        """Say how far the job is; what is not given stays as it was.

        A new phase is written at once, the rest at most every `REPORT_SECONDS`, the last always.

        Raises:
            SupersededError: another attempt has taken over.
        """
        given = {"phase": phase, "step": step, "total_steps": total}
        with self._lock:
            self._unwritten |= {name: value for name, value in given.items() if value is not None}
            self._metrics |= metrics
            if phase not in {None, self._phase} or self._monotonic() - self._written_at >= REPORT_SECONDS:
                self._write()
            self._phase = phase or self._phase

    def flush(self) -> None:
        """Write the last report, if it was held back."""
        with self._lock:
            if self._unwritten or self._metrics:
                self._write()

    def _ask(self) -> bool:
        try:
            return self._store.stop_requested(self._job)
        except sqlite3.Error:
            # As with a report: the run goes on, and the question is asked again soon.
            logger.warning("not known whether to stop", exc_info=True, extra={"job_id": self._job.id})
            return False

    def _write(self) -> None:
        try:
            self._store.progress(self._job, **self._unwritten, metrics=self._metrics)
        except sqlite3.Error:
            # Hours of training are worth more than one line of progress; the next report carries it too.
            logger.warning("progress not written", exc_info=True, extra={"job_id": self._job.id})
            return
        self._unwritten, self._metrics = {}, {}
        self._written_at = self._monotonic()
