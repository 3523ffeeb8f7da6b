"""The random kills of `make chaos`, some of them; and that what they look for would be found."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.chaos.killing import kill_at_random
from tests.chaos.looking import faults_of_state
from tests.chaos.service import Service


def test_random_kills_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    report = kill_at_random(tmp_path, kills=3, seed=0)
    assert report.faults == []
    assert report.starts == 6
    assert report.ended.total() >= 5


def test_what_is_wrong_in_a_state_folder_would_be_found(service: Service) -> None:
    service.start()
    job_id = service.train("toy")
    assert job_id
    service.ended(job_id)
    service.kill()
    assert faults_of_state(service) == []

    (weights,) = (service.state_dir / "adapters" / "toy").glob("*/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert ["is damaged" in fault for fault in faults_of_state(service)] == [True]

    with closing(sqlite3.connect(service.state_dir / "service.db")) as database, database:
        database.execute("UPDATE versions SET key = 'b' || key, number = 2")
        database.execute("INSERT INTO job_events (job_id, attempt, kind, at) SELECT id, 1, 'failed', '' FROM jobs")
        database.execute("UPDATE jobs SET status = 'running'")
        database.execute("CREATE TEMP TABLE copy AS SELECT * FROM jobs")
        database.execute("UPDATE copy SET number = 99, id = 'job_2', idempotency_key = NULL")
        database.execute("INSERT INTO jobs SELECT * FROM copy")
    faults = " ".join(faults_of_state(service))
    for fault in ("toy@2 has no files", "toy has a version 2", "2 jobs run at once", "ended 2 times"):
        assert fault in faults
