"""Where a figure comes from: commit, machine, versions; and the file that keeps it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from adapter_service.durable import write_whole

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "safetensors",
    "sacrebleu",
    "py3langid",
    "fastapi",
    "boto3",
    "datasets",
    "trl",
)
# What these programs write themselves must not make the next run's commit look changed.
_OWN_OUTPUT = (":!smoke_results.md", ":!benchmarks/results", ":!README.md")


@dataclass(frozen=True, slots=True)
class Result:
    """One row of a results file; `target` and `met` are None where only a figure is reported.

    `peer` is what the figure is held against, measured in the same run; `ratio` is figure to peer's.
    """

    measure: str
    figure: float
    unit: str
    peer: str | None = None
    peer_figure: float | None = None
    ratio: float | None = None
    target: float | None = None
    met: bool | None = None


def commit(folder: Path) -> str:
    """Short hash of the checkout in `folder`, marked where it differs from what is committed."""
    head = _output("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    changes = _output("git", "-C", str(folder), "status", "--porcelain", "--", ".", *_OWN_OUTPUT)
    return f"{head} + uncommitted changes" if changes else head


def machine() -> dict[str, str]:
    """Processor, cores this process may use, memory and graphics card, for people to read."""
    return {
        "cpu": _cpu_model(),
        "cores": str(_cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of Python, this package and those that a figure depends on; packages not installed are left out."""
    found = {"python": platform.python_version()}
    for package in ("adapter-service", *_PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_results(path: Path, rows: Sequence[Result], *, checkout: Path | None = None) -> None:
    """Write a results file of `benchmarks/results/`, with where its figures come from.

    `checkout` is the folder whose commit is named; the current one by default.
    """
    document = {
        "commit": commit(checkout or Path.cwd()),
        "machine": machine(),
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
    }
    write_whole(path, json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def _output(*command: str) -> str:
    """What `command` prints; "" where it is missing or fails."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"model name", "Model", "Hardware"}:
                return value.strip()
    return platform.processor() or "unknown"


def _cores() -> int:
    # A container may be given fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def _gpu() -> str:
    cards = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return "; ".join(cards.splitlines()) or "none"
