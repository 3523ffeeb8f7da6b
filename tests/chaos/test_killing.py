"""The random kills of `make chaos`, some of them; and that what they look for would be found."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.chaos.killing import kill_at_random
from tests.chaos.looking import faults_of_state


def test_random_kills_lose_nothing_and_what_is_wrong_would_be_found(tmp_path: Path) -> None:
    report = kill_at_random(tmp_path, kills=3, seed=0)
    assert report.faults == []
    assert report.starts == 6
    assert report.ended.total() >= 5

    state_dir, store_dir = tmp_path / "service" / "state", tmp_path / "service" / "store"
    assert faults_of_state(state_dir, store_dir) == []
    for root in (state_dir / "adapters", store_dir):
        (weights,) = root.glob("undisturbed/*/adapter_model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1])
    assert len(faults_of_state(state_dir, store_dir)) == 2

    with closing(sqlite3.connect(state_dir / "service.db")) as database, database:
        database.execute("UPDATE versions SET key = 'b' || key, number = 2 WHERE adapter = 'measured'")
        database.execute("INSERT INTO job_events (job_id, attempt, kind, at) SELECT id, 1, 'failed', '' FROM jobs")
        database.execute("UPDATE jobs SET status = 'running'")
    faults = " ".join(faults_of_state(state_dir, store_dir))
    for fault in ("measured@2 has no files", "measured has a version 2", "jobs run at once", "ended 2 times"):
        assert fault in faults
