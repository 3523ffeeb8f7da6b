"""Kills at random moments while jobs keep coming, and what must be true in the end."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adapter_service.jobs.job import MAX_CRASHES, Job, JobStatus
from tests.chaos.looking import faults_of_state
from tests.chaos.service import SAVE_STEPS, STEPS, Service
from tests.conftest import write_tiny_base
from tests.waiting import eventually

# So many jobs wait or run when a process begins; it lives for up to so many times what a start and one job take.
WAITING = 5
LONGEST_LIFE = 2.5


@dataclass
class Report:
    """What the kills met, what became of the jobs, and everything that is wrong."""

    met: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    asked_again: int = 0
    steps_again: int = 0
    starts: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def kill_at_random(
    folder: Path, *, kills: int, seed: int, tell: Callable[[int, int], None] = lambda kill, jobs: None
) -> Report:
    """Kill a service in `folder` `kills` times, then let every job end."""
    base = folder / "base"
    write_tiny_base(base)
    service = Service(folder / "service", base)
    try:
        return _Chaos(service, random.Random(seed)).run(kills, tell)
    finally:
        service.close()


class _Chaos:
    def __init__(self, service: Service, chance: random.Random) -> None:
        self._service = service
        self._chance = chance
        self._report = Report()
        self._start_and_job_seconds = 0.0
        self._ids: dict[str, str | None] = {}  # of every adapter that was asked for; None while nobody said one

    def run(self, kills: int, tell: Callable[[int, int], None]) -> Report:
        began = time.monotonic()
        service = self._service
        for adapter in ("undisturbed", "measured"):  # the first start of all is slower
            started = time.monotonic()
            service.start()
            self._ask(adapter)
            self._end(adapter)
            self._start_and_job_seconds = time.monotonic() - started
            service.kill()
        service.start()
        for kill in range(1, kills + 1):
            self._kill_once()
            service.start()
            tell(kill, len(self._ids))
        for adapter in list(self._ids)[2:]:
            self._ask(adapter)
            self._end(adapter)
        self._report.faults += faults_of_state(service.state_dir, service.store_dir)
        self._report.starts, self._report.seconds = service.starts, time.monotonic() - began
        return self._report

    def _kill_once(self) -> None:
        asking = threading.Thread(target=self._ask_for_some)
        asking.start()
        time.sleep(self._chance.uniform(0.0, LONGEST_LIFE * self._start_and_job_seconds))
        self._service.kill()
        asking.join()
        self._report.faults += faults_of_state(self._service.state_dir, self._service.store_dir)
        self._report.met[_met(self._service.jobs())] += 1

    def _ask_for_some(self) -> None:
        """As clients do: whoever got no answer asks again, with the same key."""
        unanswered = [adapter for adapter, job_id in self._ids.items() if job_id is None]
        self._report.asked_again += len(unanswered)
        waiting = [job for job in self._service.jobs() if not job.status.finished]
        new = [f"job-{len(self._ids) + n}" for n in range(WAITING - len(waiting))]
        for adapter in [*unanswered, *new]:
            self._ask(adapter)
            if self._ids[adapter] is None:
                return  # the process is dead

    def _ask(self, adapter: str) -> None:
        told, before = self._service.train(adapter), self._ids.get(adapter)
        if told and before and told != before:
            self._fault(f"{adapter} is {told} and was {before}")
        self._ids[adapter] = told or before

    def _end(self, adapter: str) -> None:
        """Wait for the end of a job, and look at all that there is of it."""
        service, job_id = self._service, self._ids[adapter]
        assert job_id
        service.ended(job_id)
        jobs = [job for job in service.jobs() if job.adapter == adapter]
        if [job.id for job in jobs] != [job_id]:
            return self._fault(f"{adapter} has the jobs {[job.id for job in jobs]}, and {job_id} was promised")
        job = jobs[0]
        self._report.ended[job.error_code or job.status] += 1
        self._report.attempts[job.attempt] += 1
        if job.status is not JobStatus.SUCCEEDED:
            if (job.error_code, job.crashes) != ("interrupted", MAX_CRASHES):
                self._fault(f"{adapter} is {job.status}: {job.error_message}")
            return None
        self._look_at_steps(adapter, job)
        if service.versions().get(adapter) != [(1, "live")]:
            self._fault(f"{adapter} has the versions {service.versions().get(adapter)}")
        elif service.weights(adapter) != service.weights("undisturbed"):
            self._fault(f"{adapter} has other weights than an undisturbed run")
        eventually(lambda: any((service.store_dir / adapter).glob("[!.]*")), f"{adapter} in the store")
        return None

    def _look_at_steps(self, adapter: str, job: Job) -> None:
        lines = self._service.log_of(job.id)
        steps = [int(found[1]) for line in lines if (found := re.match(r"step (\d+) of", line))]
        self._report.steps_again += len(steps) - STEPS
        if set(steps) != set(range(1, STEPS + 1)) or len(steps) > STEPS + SAVE_STEPS * job.crashes:
            self._fault(f"{adapter} trained the steps {steps} in {job.attempt} attempts")

    def _fault(self, what: str) -> None:
        self._report.faults.append(what)


def _met(jobs: list[Job]) -> str:
    """Where the kill met the service."""
    running = [job for job in jobs if job.status is JobStatus.RUNNING]
    if running:
        return str(running[0].phase or "just begun")
    return "starting" if any(not job.status.finished for job in jobs) else "idle"
