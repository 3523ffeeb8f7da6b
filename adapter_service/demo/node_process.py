"""The reference node as a process of its own, its lines read as they come."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from adapter_service.errors import RunFailedError

_STOP_SECONDS = 10.0


class NodeProcess:
    """`events` are what it tells, one JSON object a line."""

    def __init__(self, process: subprocess.Popen[str], out: IO[str]) -> None:
        self._process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=[out], name="node's lines", daemon=True).start()

    def wait_for(self, event: str, *, seconds: float) -> Mapping[str, Any]:
        """The next event of that name.

        Raises:
            RunFailedError: it ended, or did not come in time.
        """
        ends_at = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, ends_at - time.monotonic()))
            except queue.Empty:
                raise RunFailedError(f"the node has not said {event!r} within {seconds:.0f} s") from None
            if line is None:
                raise RunFailedError(f"the node ended with {self._process.wait()} before it said {event!r}")
            told: Mapping[str, Any] = json.loads(line)
            if told.get("event") == event:
                return told

    def _read(self, out: IO[str]) -> None:
        for line in out:
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def node_process(node_id: str, broker_url: str, folder: Path, service_url: str) -> Iterator[NodeProcess]:
    """Listening until the end of the block."""
    command = [sys.executable, "-m", "adapter_service.node", "--node-id", node_id, "--broker", broker_url]
    command += ["--folder", str(folder), "--service", service_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None  # noqa: S101 - it is piped
    try:
        yield NodeProcess(process, process.stdout)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()
