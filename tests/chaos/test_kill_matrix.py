"""A real server killed at each point of a job's way: the job is done once, and ends as if nothing had been."""

from __future__ import annotations

import re
import signal

import pytest

from tests.chaos.points import POINTS
from tests.chaos.service import SAVE_STEPS, STEPS, Service
from tests.waiting import eventually

# Which call of a point it is: past the first samples, the first checkpoint.
CALLS = {"in-the-stream": 40, "in-a-step": 20, "in-a-checkpoint": 3}
# How often the job begins. An upload follows a job, which may have ended when the process dies, or not quite.
ATTEMPTS = {"after-accept": {1}, "in-an-upload": {1, 2}}


@pytest.fixture
def undisturbed(running: Service) -> Service:
    """The service, running, with one job behind it that nothing disturbed: the adapter `undisturbed`."""
    job_id = running.train("undisturbed")
    assert job_id
    assert running.ended(job_id)["status"] == "succeeded"
    return running


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_service_goes_on_and_does_nothing_twice(undisturbed: Service, point: str) -> None:
    service = undisturbed
    service.arm(point, call=CALLS.get(point, 1))
    told = service.train(point)
    assert service.died() == -signal.SIGKILL
    service.start()
    job_id = service.train(point)  # the client asks again, as it may
    assert job_id
    assert told in {None, job_id}
    job = service.ended(job_id)
    assert (job["status"], job["version"], job["error"]) == ("succeeded", 1, None)
    assert job["attempt"] in ATTEMPTS.get(point, {2})
    assert_done_once(service, point, job_id)
    assert service.weights(point) == service.weights("undisturbed")
    eventually(lambda: is_pushed(service, point), f"{point} in the store")


def assert_done_once(service: Service, adapter: str, job_id: str) -> None:
    (job,) = [job for job in service.jobs() if job.adapter == adapter]
    assert (job.id, job.crashes) == (job_id, job.attempt - 1)
    assert service.versions()[adapter] == [(1, "live")]
    kinds = [event.kind for event in service.events(job_id)]
    assert [kinds.count(kind) for kind in ("queued", "running", "succeeded")] == [job.attempt, job.attempt, 1]
    assert not list((service.state_dir / "work").iterdir())
    log = service.log_of(job_id)
    assert [line for line in log if line.startswith("attempt")] in attempts_in_log(adapter, job.attempt)
    steps = [int(found[1]) for line in log if (found := re.match(r"step (\d+) of", line))]
    assert set(steps) == set(range(1, STEPS + 1))
    assert len(steps) <= STEPS + SAVE_STEPS  # none again but those since the last checkpoint


def attempts_in_log(point: str, attempts: int) -> list[list[str]]:
    """What the log may say of the attempts; a process that dies between a row and its line never writes that."""
    last = [f"attempt {attempts} begins", f"attempt {attempts} ended, the job is succeeded"]
    if attempts == 1:
        return [last, last[:1]] if point == "in-an-upload" else [last]
    first = [] if point == "after-claim" else ["attempt 1 begins"]
    return [[*first, "attempt 1 broke off with the service; the job is queued", *last]]


def is_pushed(service: Service, adapter: str) -> bool:
    """Whether the store has the version, whole and alone."""
    (local,) = (service.state_dir / "adapters" / adapter).iterdir()
    there = service.store_dir / adapter
    return there.is_dir() and [folder.name for folder in there.iterdir()] == [local.name]


def test_a_job_under_which_the_service_dies_three_times_fails_and_the_next_one_runs(undisturbed: Service) -> None:
    service = undisturbed
    deadly = ""
    for call in (20, 1, 1):
        service.arm("in-a-step", call=call)
        deadly = service.train("deadly") or deadly
        assert service.died() == -signal.SIGKILL
        service.start()
    job_id = service.train("harmless")
    assert job_id
    assert service.ended(job_id)["status"] == "succeeded"
    job = service.ended(deadly)
    assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", "interrupted", 3)
    assert "broke off 3 times, the last time because the service died" in job["message"]
    assert "deadly" not in service.versions()


def test_a_paused_job_stays_so_over_a_kill_and_ends_as_if_it_had_never_stopped(undisturbed: Service) -> None:
    service = undisturbed
    with service.slow_steps():
        job_id = service.train("held")
        assert job_id
        eventually(lambda: service.status(job_id)["step"] >= 7, "some steps of the job")
        service.post(f"/adapter/pause/{job_id}")
        eventually(lambda: service.status(job_id)["status"] == "paused", "the job is paused")
    service.kill()
    service.start()
    other = service.train("other")
    assert other
    assert service.ended(other)["status"] == "succeeded"
    held = service.status(job_id)
    assert (held["status"], held["attempt"], held["step"] < STEPS) == ("paused", 1, True)
    assert service.post(f"/adapter/resume/{job_id}").json()["status"] in {"queued", "running", "succeeded"}
    ended = service.ended(job_id)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    assert service.weights("held") == service.weights("undisturbed")
    assert [line for line in service.log_of(job_id) if "checkpoint" in line]
