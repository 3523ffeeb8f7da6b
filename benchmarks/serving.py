"""The real service as a process of its own, for benchmarks that ask it over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from adapter_service.measuring.service_client import ServiceClient
from adapter_service.settings import load_settings


def keep_bases(state: Path) -> None:
    """Let a service with the state folder `state` find the checkout's bases: importing one takes a minute."""
    kept = load_settings().storage.state_dir.absolute() / "bases"
    kept.mkdir(parents=True, exist_ok=True)
    (state / "bases").symlink_to(kept)


@contextmanager
def serving(
    state: Path, *, base: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[psutil.Process, ServiceClient]]:
    """The server with the base loaded; its log is kept in `state` and shown when it does not come up."""
    own = {"ADAPTER_STATE_DIR": str(state), "ADAPTER_MODEL__BASE": base, **(environment or {})}
    command = [sys.executable, "-m", "adapter_service.cli", "serve", "--port", "0"]
    log = state / "server.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, env={**os.environ, **own}, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield psutil.Process(process.pid), ServiceClient(until(lambda: _ready(process, log)))
        finally:
            process.terminate()
            process.wait(60)


def until(ask: Callable[[], Any], *, seconds: float = 300.0, every: float = 0.1) -> Any:
    """What `ask` answers once that is something."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing came within {seconds:.0f} s")
        time.sleep(every)
    return answer


def _ready(process: subprocess.Popen[bytes], log: Path) -> str | None:
    if process.poll() is not None:
        raise SystemExit(f"the server did not come up:\n{log.read_text()[-2000:]}")
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    if found is None or ServiceClient(found[0]).ask("GET", "/health")["status"] == "loading":
        return None
    return found[0]
