"""One service in one folder, over all its starts: how tests start, ask, kill and look at it from outside."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from adapter_service.adapters.artifact import verify_folder
from adapter_service.database import Database
from adapter_service.jobs.job import Job, JobEvent
from adapter_service.jobs.store import JobStore
from tests.chaos.points import arm, slow_down
from tests.conftest import ROOT
from tests.jobs.bench import toy_records, toy_settings
from tests.waiting import eventually

SECONDS = 60.0
STEPS, SAVE_STEPS = 28, 5


class Service:
    """The toy task on the tiny base, one thread; `starts` counts its processes."""

    def __init__(self, folder: Path, base_folder: Path) -> None:
        self.state_dir = folder / "state"
        self.store_dir = folder / "store"
        self.log = folder / "server.log"
        self.starts = 0
        self.address = ""
        self._pid: int | None = None
        self.state_dir.mkdir(parents=True)
        self.store_dir.mkdir()
        environment = {**os.environ, **_configured(folder, base_folder, self.store_dir)}
        with self.log.open("w") as log:
            self._launcher = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.launcher"],
                cwd=ROOT,
                env={**environment, "ADAPTER_STATE_DIR": str(self.state_dir), "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self) -> None:
        """The next process; it listens from now on, and answers as soon as it can."""
        assert self._launcher.stdin
        self._launcher.stdin.write("start\n")
        self._launcher.stdin.flush()
        said = self._heard()
        self.starts += 1
        self._pid, self.address = said["pid"], f"http://127.0.0.1:{said['port']}"

    @property
    def is_running(self) -> bool:
        """Whether its process lives; a test that failed may have left it dead, and nobody asked how it ended."""
        if self._pid is not None and not psutil.pid_exists(self._pid):
            self.died()
        return self._pid is not None

    def died(self) -> int:
        """Wait for the end of the process; its exit code, negative for a signal."""
        code: int = self._heard()["exit_code"]
        self._pid = None
        return code

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self._pid
        os.kill(self._pid, number)
        return self.died()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Within it no file of the running process grows beyond a block; the kernel refuses the write."""
        assert self._pid
        soft, hard = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (1, hard))
        try:
            yield
        finally:
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (soft, hard))

    def close(self) -> None:
        assert self._launcher.stdin
        assert self._launcher.stdout
        if self.is_running:
            self.kill()
        self._launcher.stdin.close()
        self._launcher.wait(30)
        self._launcher.stdout.close()

    def arm(self, point: str, *, call: int = 1) -> None:
        arm(self.state_dir, point, call=call)

    def slow_steps(self) -> AbstractContextManager[None]:
        return slow_down(self.state_dir)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **headers: str) -> requests.Response:
        return requests.post(self.address + path, json=body, headers=headers, timeout=SECONDS)

    def get(self, path: str) -> Any:
        answer = requests.get(self.address + path, timeout=SECONDS)
        assert answer.ok, answer.text
        return answer.json()

    def train(self, adapter: str, **body: Any) -> str | None:
        """The job's id, if the service lived long enough to say it; the adapter's name is the idempotency key."""
        try:
            answer = self.post("/adapter/train-lite", {"adapter": adapter, **body}, **{"Idempotency-Key": adapter})
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):  # no answer, or half of one
            return None
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def status(self, job_id: str) -> Any:
        return self.get(f"/adapter/status/{job_id}")

    def ended(self, job_id: str) -> Any:
        """The answer to a status request once the job has ended and nothing is left of its work."""

        def over() -> Any:
            answer = self.status(job_id)
            return answer if answer["finished_at"] and not (self.state_dir / "work" / job_id).exists() else None

        return eventually(over, f"the end of {job_id}")

    def log_of(self, job_id: str) -> list[str]:
        """Its lines without their times."""
        lines = self.get(f"/adapter/logs/{job_id}?limit=5000")["lines"]
        return [line.partition(" ")[2] for line in lines]

    def jobs(self) -> list[Job]:
        """As a process beside the service reads them, oldest first."""
        database = Database(self.state_dir / "service.db")
        try:
            return list(reversed(JobStore(database).list(limit=10_000)))
        finally:
            database.close()

    def events(self, job_id: str) -> tuple[JobEvent, ...]:
        database = Database(self.state_dir / "service.db")
        try:
            return JobStore(database).events(job_id)
        finally:
            database.close()

    def versions(self) -> dict[str, list[tuple[int, str]]]:
        """Numbers and statuses of every adapter's versions, as `/adapter/list` shows them."""
        adapters = self.get("/adapter/list")["adapters"]
        return {adapter["name"]: [(v["version"], v["status"]) for v in adapter["versions"]] for adapter in adapters}

    def weights(self, adapter: str) -> bytes:
        """Those of the adapter's one version, whose folder is all that lies there and is whole."""
        (folder,) = (self.state_dir / "adapters" / adapter).iterdir()
        verify_folder(folder)
        return (folder / "adapter_model.safetensors").read_bytes()

    def _heard(self) -> Any:
        assert self._launcher.stdout
        ready, _, _ = select.select([self._launcher.stdout], [], [], SECONDS)
        line = self._launcher.stdout.readline() if ready else None
        assert line, f"{'the launcher died' if ready else 'nothing happened'}:\n{self.log.read_text()[-4000:]}"
        return json.loads(line)


def _configured(folder: Path, base_folder: Path, store_dir: Path) -> dict[str, str]:
    """The variables that name the configuration written into `folder`."""
    toy = toy_settings(training={"save_steps": SAVE_STEPS}).model_dump(mode="json")
    config = {name: toy[name] for name in ("lora", "training", "data", "gate")}
    config["model"] = {"base": str(base_folder), "device": "cpu", "dtype": "float32", "threads": 1}
    config["storage"] = {"min_free_mb": 0}
    config["serving"] = {"job_queue_size": 1000}
    config["publishing"] = {"stores": [{"name": "nas", "kind": "folder", "path": str(store_dir)}]}
    corpus = folder / "toy.jsonl"
    corpus.write_text("".join(json.dumps(record) + "\n" for record in toy_records()))
    sources = {"sources": {"toy": {"kind": "local", "path": str(corpus), "format": "completion"}}}
    (folder / "adapter_config.yaml").write_text(yaml.safe_dump(config))
    (folder / "mcp_connectors.yml").write_text(yaml.safe_dump(sources))
    return {
        "ADAPTER_CONFIG": str(folder / "adapter_config.yaml"),
        "ADAPTER_SOURCES": str(folder / "mcp_connectors.yml"),
    }
