"""What a job is: a request to train one adapter, where it stands, and where it may go next. Pure.

                 ┌───── put back: shutdown, crash, a fault ──────┐
                 ▼                                               │
    create ─▶ queued ───────── claim: attempt + 1 ──────────▶ running ─▶ succeeded | failed | cancelled
               ▲  │                                              │
               │  ├──▶ paused ◀──── it stopped, as it was asked ─┘
               └──┼──────┤
                  └──────┴──▶ cancelled

Being asked to stop is a flag (`cancel_requested`, `pause_requested`), not a status: the job is running
until it stops. Of the two, cancelling wins. A paused job keeps its place in the queue and its checkpoint.
A gate that says no is a *succeeded* job; `result` has the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from adapter_service.errors import WrongJobStateError
from adapter_service.jobs.ids import is_id, new_id

# A job that kills the process, or meets an error that nobody foresaw, would do so forever; the third time is the last.
MAX_CRASHES = 3

_PREFIX = "job_"


class JobStatus(StrEnum):
    QUEUED = "queued"
    PAUSED = "paused"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return not ALLOWED[self]


class Phase(StrEnum):
    """What a running job is doing, in this order."""

    STREAMING = "streaming"
    TRAINING = "training"
    EVALUATING = "evaluating"
    GATING = "gating"
    PUBLISHING = "publishing"


ALLOWED: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUEUED, JobStatus.PAUSED}
    ),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the job table, as it was when it was read.

    `attempt` counts executions and is the fencing token: only who holds the newest may write.
    `crashes` counts those that broke off: the process died, or met an error that nobody foresaw.
    `pause_requested` is true of a running job alone.
    `progress` has what the last report said (loss, tokens_per_second, sample counts, …);
    `result` is what the finished job returned, or None. `asked` is what a client of the fine-tuning API said
    that training has no use for and that it is told again; None of a job that was made otherwise.
    `node_id` is whose commands it learns, of a home hub's, and `content_key` what its adapter follows from: both None
    of any other job. Of waiting jobs those of the highest `priority` begin first.
    """

    id: str
    adapter: str
    request: Mapping[str, Any]
    trace_id: str
    created_at: datetime
    status: JobStatus = JobStatus.QUEUED
    phase: Phase | None = None
    attempt: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    pause_requested: bool = False
    step: int = 0
    total_steps: int | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    asked: Mapping[str, Any] | None = None
    node_id: str | None = None
    content_key: str | None = None
    priority: int = 0

    @property
    def has_begun(self) -> bool:
        """Whether it runs, or did before it was put back."""
        return self.attempt > 0 and not self.status.finished

    def moved(self, to: JobStatus, **changes: Any) -> Job:
        """This job after a move; the only way to another status.

        Raises:
            WrongJobStateError: no such move is allowed from here.
        """
        if to not in ALLOWED[self.status]:
            allowed = ", ".join(sorted(ALLOWED[self.status])) or "nothing, it is finished"
            raise WrongJobStateError(f"{self.id} is {self.status} and cannot become {to}; it can become: {allowed}")
        return replace(self, status=to, **changes)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job: a status, `phase:<name>`, or what was asked: `cancel_requested`, …

    One of kind `metrics` is of a step of its training, with what was measured as `data`. `number` orders the
    events of all jobs.
    """

    job_id: str
    attempt: int
    kind: str
    at: datetime
    number: int = 0
    data: Mapping[str, Any] | None = None


def new_job_id(now: datetime) -> str:
    return new_id(_PREFIX, now)


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of an id, so that it may become a file's name."""
    return is_id(_PREFIX, text)
