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
from functools import partial
from typing import Any

from adapter_service.errors import AdapterServiceError, JobCancelledError, NotReadyError, SupersededError
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job
from adapter_service.jobs.logs import JobLogs
from adapter_service.jobs.rows import encode
from adapter_service.jobs.store import JobStore

RunJob = Callable[[Job, JobContext], Mapping[str, Any]]
Ending = Callable[[], Job]

logger = logging.getLogger(__name__)


class Runner:
    """Runs the jobs of `store`, one at a time, until it is stopped.

    `run_job` returns the job's result; it raises `JobCancelledError` once `context.cancelled()` or
    `context.stopping()` says so, any other error of our tree when the job fails for a known reason.
    While `ready` says no, jobs stay in the queue, where they can be cancelled and cost no attempt.
    """

    def __init__(
        self,
        store: JobStore,
        run_job: RunJob,
        logs: JobLogs,
        *,
        ready: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
        retry_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._run_job = run_job
        self._logs = logs
        self._ready = ready
        self._monotonic = monotonic
        self._retry_seconds = retry_seconds
        self._condition = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="job-runner", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether jobs are run: it was started, and has neither been stopped nor died."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Put back what a dead process left running, then begin."""
        for job in self._store.requeue_interrupted():
            logger.warning("%s was interrupted and is now %s", job.id, job.status, extra={"job_id": job.id})
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
            try:
                self._attempt(job)
            except Exception:
                # This thread is the only one there is: what it cannot write about one job costs no other.
                logger.exception("how %s ended is not known", job.id, extra={"job_id": job.id})

    def _next_job(self) -> Job | None:
        # The claim is made under the condition's lock, so that no wake() falls between it and the wait.
        with self._condition:
            while not self._stopping.is_set():
                try:
                    if self._ready() and (job := self._store.claim_next()) is not None:
                        return job
                except Exception:
                    logger.exception("no job can be claimed; trying again in %s s", self._retry_seconds)
                    self._condition.wait(self._retry_seconds)
                else:
                    self._condition.wait()
        return None

    def _attempt(self, job: Job) -> None:
        self._logs.append(job.id, f"attempt {job.attempt} begins")
        context = JobContext(self._store, job, self._logs, self._stopping.is_set, self._monotonic)
        ending = self._ending(job, context)
        if (ended := self._settle(ending)) is not None:
            reason = f": {ended.error_message}" if ended.error_message else ""
            self._logs.append(job.id, f"attempt {job.attempt} ended, the job is {ended.status}{reason}")
            logger.info("%s is %s", job.id, ended.status, extra={"action": "job_ended", "job_id": job.id})

    def _ending(self, job: Job, context: JobContext) -> Ending:
        """Run the job; the move that ends it."""
        try:
            return partial(self._store.succeed, job, self._result(job, context))
        except JobCancelledError:
            return partial(self._stopped, job)
        except NotReadyError as error:
            if self._stopping.is_set():  # the engine ended before the job noticed that it shall
                return partial(self._store.put_back, job)
            return partial(self._store.fail, job, error.code, str(error))
        except AdapterServiceError as error:
            return partial(self._store.fail, job, error.code, str(error))
        except Exception as error:
            # The message goes to clients: no path and no traceback in it.
            logger.exception("%s failed", job.id, extra={"action": "job_failed", "job_id": job.id})
            message = f"unexpected {type(error).__name__}; the service's own log has the traceback under {job.id}"
            return partial(self._store.fail, job, "internal_error", message)

    def _result(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        try:
            result = self._run_job(job, context)
        finally:
            context.flush()
        # A result that is not JSON is the job's fault, and shall fail it rather than this thread.
        encode(result)
        return result

    def _stopped(self, job: Job) -> Job:
        return self._store.put_back(job) if self._stopping.is_set() else self._store.cancelled(job)

    def _settle(self, ending: Ending) -> Job | None:
        """Write how a job ended, again and again while the disk is full; None if it could not be."""
        while True:
            try:
                return ending()
            except SupersededError:
                logger.warning("an ended job had been superseded", exc_info=True)
                return None
            except sqlite3.Error:
                logger.exception("the end of a job is not written; trying again in %s s", self._retry_seconds)
                if self._stopping.wait(self._retry_seconds):
                    return None
