"""A real server on a disk that takes nothing: it says so, keeps what it has, and goes on by itself."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.chaos.service import Service
from tests.conftest import ROOT
from tests.waiting import eventually


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be made in `folder`; what is open already can be written."""
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def said(service: Service, job_id: str, words: str) -> Any:
    """The answer to a status request, once its message has `words`."""

    def asked() -> Any:
        answer = service.status(job_id)
        return answer if words in answer["message"] else None

    return eventually(asked, f"{job_id} says {words!r}")


def test_a_read_only_folder_holds_jobs_back_and_everyone_is_told_until_it_is_mended(running: Service) -> None:
    service = running
    with read_only(service.state_dir):
        job_id = service.train("toy")
        assert job_id
        told = said(service, job_id, "no job begins")
        assert (told["status"], told["attempt"]) == ("queued", 0)
        assert "cannot be written; make it writable for the user of the service" in told["message"]
        health = service.get("/health")
        assert (health["status"], health["storage"]["ok"]) == ("degraded", False)
        assert "make it writable" in health["storage"]["detail"]
        assert str(service.state_dir) not in requests.get(f"{service.address}/health", timeout=60).text
    ended = service.ended(job_id)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert service.get("/health")["storage"]["ok"] is True


def test_a_disk_that_fills_up_under_a_running_job_costs_waiting_and_nothing_else(running: Service) -> None:
    service = running
    undisturbed = service.train("undisturbed")
    assert undisturbed
    service.ended(undisturbed)
    with service.slow_steps():
        job_id = service.train("filled-up")
        assert job_id
        eventually(lambda: service.status(job_id)["step"] >= 7, "some steps of the job")
        with service.full_disk():
            eventually(lambda: not service.get("/health")["storage"]["ok"], "the disk is found full")
            refused = service.post("/adapter/train-lite", {"adapter": "refused"})
            assert (refused.status_code, refused.json()["code"]) in {(503, "storage_error"), (507, "storage_full")}
            assert "Traceback" not in refused.text
            eventually(lambda: not service.get("/health")["engine"]["working"], "the training has come to its end")
    ended = service.ended(job_id)
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    assert service.weights("filled-up") == service.weights("undisturbed")
    assert "refused" not in {job.adapter for job in service.jobs()}
    assert service.get("/health")["storage"]["ok"] is True
    accepted = service.train("refused")
    assert accepted
    assert service.ended(accepted)["status"] == "succeeded"


def test_a_place_for_versions_that_takes_nothing_costs_attempts_and_not_the_other_jobs(running: Service) -> None:
    """The state folder is well, so the fault is the job's: three attempts, from its checkpoint, and no more."""
    service = running
    place = service.state_dir / "adapters" / "blocked"
    place.mkdir(parents=True)
    with read_only(place):
        blocked, other = service.train("blocked"), service.train("free")
        assert blocked
        assert other
        assert service.ended(other)["status"] == "succeeded"
        ended = service.ended(blocked)
    assert (ended["status"], ended["error"]["code"], ended["attempt"]) == ("failed", "storage_error", 3)
    assert "the disk of the state folder cannot be written" in ended["error"]["message"]
    steps = [line for line in service.log_of(blocked) if re.match(r"step \d+ of", line)]
    assert len(steps) < 2 * 28  # the later attempts went on from the checkpoint
    assert service.versions().keys() >= {"free"}
    assert "blocked" not in service.versions()


def test_a_database_that_cannot_be_opened_is_told_in_one_line(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from tests.ordinary_user import become_ordinary
        from adapter_service.database import Database
        from adapter_service.errors import StorageError
        become_ordinary()
        Database(Path(sys.argv[1])).close()
        Path(sys.argv[1]).parent.chmod(0o555)
        try:
            Database(Path(sys.argv[1]))
        except StorageError as error:
            print(error)
    """
    state = tmp_path / "state"
    command = [sys.executable, "-c", textwrap.dedent(program), str(state / "service.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    state.chmod(0o755)
    assert "service.db cannot be opened: the state database cannot be written; make it writable" in done.stdout
