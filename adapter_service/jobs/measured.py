"""Which steps of a job's training are kept as events, and what of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_service.jobs.job import Job

METRICS = "metrics"
# Enough for a curve; a job may have hundreds of thousands of steps, and each event stays for good.
_EVENTS_PER_RUN = 100
_KEPT = ("loss", "loss_vocabulary", "learning_rate", "gradient_norm", "tokens_per_second")


def is_worth_an_event(before: Job, after: Job) -> bool:
    """Whether the report that made `after` of `before` reaches another hundredth of the run, and has a loss to tell."""
    if not after.total_steps or "loss" not in after.progress or after.step == before.step:
        return False
    return _hundredth(before.step, after.total_steps) != _hundredth(after.step, after.total_steps)


def measured_at(job: Job) -> Mapping[str, Any]:
    told = {name: job.progress[name] for name in _KEPT if name in job.progress}
    return {"step": job.step, "total_steps": job.total_steps, **told}


def _hundredth(step: int, total_steps: int) -> int:
    # At least one event for each step of a run that has fewer.
    return step * _EVENTS_PER_RUN // total_steps
