"""The one thread that runs jobs: claims the oldest, runs it, writes how it ended.

It is handed the function to run and knows nothing of training. It waits on a condition and never
polls: whoever changes the table, or what `ready` says, calls `wake()`.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from adapter_service.errors import (
    AdapterServiceError,
    JobCancelledError,
    NotReadyError,
    StorageError,
    SupersededError,
)
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job
from adapter_service.jobs.logs import JobLogs
from adapter_service.jobs.rows import encode
from adapter_service.jobs.store import JobStore
from adapter_service.storage_faults import storage_fault

RunJob = Callable[[Job, JobContext], Mapping[str, Any]]
Ending = Callable[[], Job]

logger = logging.getLogger(__name__)


class Runner:
    """Runs the jobs of `store`, one at a time, until it is stopped.

    `run_job` returns the job's result; it raises `JobCancelledError` once `context.cancelled()` or
    `context.stopping()` says so, any other error of our tree when the job fails for a known reason.
    One that nobody foresaw costs an attempt, as a crash does. `forget` is called for a job that has
    ended in the table: only then nothing needs its files any more.

    While `ready` says no, or `check_storage` raises, jobs stay in the queue, where they can be
    cancelled and cost no attempt; `fault` says what is wrong.
    """

    def __init__(
        self,
        store: JobStore,
        run_job: RunJob,
        logs: JobLogs,
        *,
        forget: Callable[[str], None] = lambda _: None,
        ready: Callable[[], bool] = lambda: True,
        check_storage: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        retry_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._run_job = run_job
        self._logs = logs
        self._forget = forget
        self._ready = ready
        self._check_storage = check_storage
        self._monotonic = monotonic
        self._retry_seconds = retry_seconds
        self._condition = threading.Condition()
        self._stopping = threading.Event()
        self._recovered = False
        self._thread = threading.Thread(target=self._loop, name="job-runner", daemon=True)
        # The job it has in hand, until the last line of that attempt's log is written.
        self.attempting: str | None = None
        # Why no job begins, or why the end of one is not written; None while all is well.
        self.fault: str | None = None

    @property
    def alive(self) -> bool:
        """Whether jobs are run: it was started, and has neither been stopped nor died."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Put back what a dead process left running, then begin."""
        try:
            self._recover()
        except sqlite3.Error as error:
            self._hold(error)  # the thread tries again before it claims anything
        self._thread.start()

    def wake(self) -> None:
        """There may be a job that can begin."""
        with self._condition:
            self._condition.notify()

    def stop(self, timeout: float | None = None) -> bool:
        """Claim no more, ask the running job to stop, and wait; whether the thread has ended.

        A job that stops for this goes back to the queue. One that does not stop in time stays
        running in the table and is put back at the next start.
        """
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (job := self._next_job()) is not None:
            self.attempting = job.id
            try:
                self._attempt(job)
            except Exception as error:
                # This thread is the only one there is: what it cannot write about one job costs no other.
                logger.exception("how %s ended cannot be written", job.id, extra={"job_id": job.id})
                with suppress(Exception):  # a row that takes nothing at all: the next start says so again
                    self._end(job, self._broken_off(job, error))
            finally:
                self.attempting = None

    def _next_job(self) -> Job | None:
        # The claim is made under the condition's lock, so that no wake() falls between it and the wait.
        with self._condition:
            while not self._stopping.is_set():
                try:
                    job = self._claim()
                except Exception as error:  # noqa: BLE001 - `_hold` logs it
                    self._hold(error)
                    self._condition.wait(self._retry_seconds)
                else:
                    self.fault = None
                    if job is not None:
                        return job
                    self._condition.wait()
        return None

    def _claim(self) -> Job | None:
        if not self._recovered:
            self._recover()
        if not self._ready():
            return None
        self._check_storage()
        return self._store.claim_next()

    def _recover(self) -> None:
        for job in self._store.requeue_interrupted():
            logger.warning("%s was interrupted and is now %s", job.id, job.status, extra={"job_id": job.id})
            self._logs.append(job.id, f"attempt {job.attempt} broke off with the service; the job is {job.status}")
            if job.status.finished:
                self._forget(job.id)
        self._recovered = True

    def _hold(self, error: Exception) -> None:
        """Keep `error` as the reason why jobs are held up; it is logged once, and tried again until it is gone."""
        reason = str(storage_fault(error) or f"unexpected {type(error).__name__}; the service's own log has it")
        if reason != self.fault:
            logger.error("jobs are held up: %s; trying again every %s s", reason, self._retry_seconds, exc_info=error)
        self.fault = reason

    def _attempt(self, job: Job) -> None:
        self._logs.append(job.id, f"attempt {job.attempt} begins")
        context = JobContext(self._store, job, self._logs, self._stopping.is_set, self._monotonic)
        self._end(job, self._ending(job, context))

    def _end(self, job: Job, ending: Ending) -> None:
        if (ended := self._settle(ending)) is not None:
            reason = f": {ended.error_message}" if ended.error_message else ""
            self._logs.append(job.id, f"attempt {job.attempt} ended, the job is {ended.status}{reason}")
            if ended.status.finished:
                self._forget(job.id)
            logger.info("%s is %s", job.id, ended.status, extra={"action": "job_ended", "job_id": job.id})

    def _ending(self, job: Job, context: JobContext) -> Ending:
        """Run the job; the move that ends it."""
        try:
            return partial(self._store.succeed, job, self._result(job, context))
        except JobCancelledError:
            return partial(self._store.put_back, job)
        except NotReadyError as error:
            if self._stopping.is_set():  # the engine ended before the job noticed that it shall
                return partial(self._store.put_back, job)
            return partial(self._store.fail, job, error.code, str(error))
        except AdapterServiceError as error:
            return partial(self._store.fail, job, error.code, str(error))
        except Exception as error:
            logger.exception("%s broke off", job.id, extra={"action": "job_broke_off", "job_id": job.id})
            return self._broken_off(job, error)

    def _broken_off(self, job: Job, error: Exception) -> Ending:
        """An attempt less; none where the disk is at fault, which `_claim` waits for before the next one."""
        fault = storage_fault(error)
        # The message goes to clients: no path and no traceback in it.
        unknown = f"unexpected {type(error).__name__}; the service's own log has the traceback under {job.id}"
        code, message = (fault.code, str(fault)) if fault else ("internal_error", unknown)
        self._logs.append(job.id, f"attempt {job.attempt} broke off: {message}")
        if fault and not self._storage_is_well():
            return partial(self._store.put_back, job)
        return partial(self._store.broke_off, job, code, message)

    def _storage_is_well(self) -> bool:
        try:
            self._check_storage()
        except StorageError:
            return False
        return True

    def _result(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        try:
            result = self._run_job(job, context)
        finally:
            context.flush()
        # A result that is not JSON is the job's fault, and shall fail it rather than this thread.
        encode(result)
        return result

    def _settle(self, ending: Ending) -> Job | None:
        """Write how a job ended, again and again while the disk is full; None if it could not be."""
        while True:
            try:
                ended = ending()
            except SupersededError:
                logger.warning("an ended job had been superseded", exc_info=True)
                return None
            except sqlite3.Error as error:
                self._hold(error)
                if self._stopping.wait(self._retry_seconds):
                    return None
            else:
                self.fault = None
                return ended
