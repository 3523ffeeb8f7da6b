"""Starts the service over the small real base and sends every client at it: `python -m tests.clients [NAME...]`.

The clients' requirements exclude each other, so each has its environment in .cache/clients/<name>, made of
locks/clients-<name>.txt. Its script asks for a chat, a stream, tools, structured output and an unknown model,
and fails where an answer is not what the client promises its users.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.service import running
from tests.conftest import ROOT

CLIENTS = ("langchain-openai", "litellm", "llm")
ENVIRONMENTS = ROOT / ".cache" / "clients"


def main(names: list[str]) -> int:
    if unknown := set(names) - set(CLIENTS):
        sys.stderr.write(f"unknown client {min(unknown)!r}; known: {', '.join(CLIENTS)}\n")
        return 2
    with tempfile.TemporaryDirectory() as state, running(Path(state)) as address:
        failed = [name for name in names or CLIENTS if not _passes(name, address)]
    return 1 if failed else 0


def _passes(name: str, address: str) -> bool:
    bin_folder = ENVIRONMENTS / name / "bin"
    script = Path(__file__).with_name(f"{name.replace('-', '_')}_client.py")
    with tempfile.TemporaryDirectory() as home:
        # An empty home: what a client keeps, and what it may have been told about other services, stays out.
        environment = {**os.environ, "HOME": home, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
        environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks for a list of prices first
        environment.pop("PYTHONPATH", None)
        command = [str(bin_folder / "python"), str(script), address]
        done = subprocess.run(command, env=environment, cwd=home, check=False)
    sys.stdout.write(f"{name}: {'as it should be' if done.returncode == 0 else 'FAILED'}\n")
    sys.stdout.flush()
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
