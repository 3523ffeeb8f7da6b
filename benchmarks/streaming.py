"""What it takes to stream 2,000 samples out of 2 GB: bytes, memory, disk and time, over HTTP and from S3.

A server makes the file up as it is read and counts what it sends; each reading is a process of its
own with an empty home. Beside ours stands `datasets`, streaming the same file over HTTP (it reads S3
through s3fs, which cannot be installed beside boto3). It needs aiohttp for that (`--group bench`);
without it the rows have no peer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from adapter_service.measuring.provenance import Result, write_results
from adapter_service.settings import DataSettings
from benchmarks.made_up_file import ETAG, KEY, LINES

RESULTS = Path("benchmarks/results/streaming.json")
SIZE_BYTES = 2_000_000_000
SAMPLES = 2000
ROUNDS = 3
MAX_BYTES_RATIO = 1.1
MAX_GROWN_MB = 100.0

Reading = dict[str, float]


def run(*, console: Console | None = None, size: int = SIZE_BYTES, results: Path = RESULTS) -> None:
    """Measure, each reader in turn in every round, and write the medians."""
    console = console or Console()
    readers = ["http", "s3", *(["datasets"] if find_spec("aiohttp") else [])]
    with _served(size) as url:
        shape = _asked(f"{url}/shape")
        rounds = []
        for number in range(ROUNDS):
            console.print(f"round {number + 1} of {ROUNDS}")
            rounds.append({reader: _reading(reader, url, SAMPLES) for reader in readers})
        from_the_middle = {kind: _reading(kind, url, SAMPLES, _middle(kind, shape)) for kind in ("http", "s3")}
        ten_times = {kind: _reading(kind, url, 10 * SAMPLES) for kind in ("http", "s3")}
    taken = {reader: _medians([each[reader] for each in rounds]) for reader in readers}
    rows = [
        row
        for kind in ("http", "s3")
        for row in _rows(kind, taken[kind], taken.get("datasets"), from_the_middle[kind], ten_times[kind])
    ]
    write_results(results, rows)
    console.print(f"{len(rows)} figures in {results}")


def _rows(kind: str, ours: Reading, peer: Reading | None, middle: Reading, ten_times: Reading) -> Iterator[Result]:
    name = f"datasets {version('datasets')} over HTTP"
    samples_bytes = ours["end"]

    def row(measure: str, figure: float, unit: str, target: float | None, peer_figure: float | None = None) -> Result:
        return Result(
            measure=f"{kind}: {measure}",
            figure=round(figure, 4),
            unit=unit,
            peer=None if peer_figure is None else name,
            peer_figure=None if peer_figure is None else round(peer_figure, 4),
            ratio=round(figure / peer_figure, 4) if peer_figure else None,
            target=target,
            met=None if target is None else figure < target,
        )

    of_peer = peer or {}
    bytes_of_peer = of_peer["sent"] / samples_bytes if peer else None
    yield row(
        f"bytes read for each byte of {SAMPLES} samples", ours["sent"] / samples_bytes, "bytes",
        MAX_BYTES_RATIO, bytes_of_peer,
    )  # fmt: skip
    in_middle = middle["sent"] / (middle["end"] - middle["began_at"])
    yield row("the same, resumed in the middle of the file", in_middle, "bytes", MAX_BYTES_RATIO)
    yield row("memory grown, imports included", ours["grown_mb"], "MB", MAX_GROWN_MB, of_peer.get("grown_mb"))
    yield row(
        "memory grown after imports", ours["grown_after_imports_mb"], "MB", None, of_peer.get("grown_after_imports_mb")
    )
    yield row(f"memory grown over {10 * SAMPLES} samples", ten_times["grown_mb"], "MB", MAX_GROWN_MB)
    limit = float(DataSettings().max_cache_mb)
    yield row("left on disk", ours["on_disk_mb"], "MB", limit, of_peer.get("on_disk_mb"))
    yield row(f"time to {SAMPLES} samples after imports", ours["seconds"], "s", None, of_peer.get("seconds"))


def _reading(reader: str, url: str, samples: int, after: dict[str, Any] | None = None) -> Reading:
    """What one process took to read so many samples, and what the server sent for them."""
    _asked(f"{url}/counts")
    with tempfile.TemporaryDirectory() as home:
        folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME"), home)
        command = [sys.executable, "-m", "benchmarks.streaming_client", reader, url, str(samples)]
        done = subprocess.run(
            [*command, *([json.dumps(after)] if after else [])],
            stdout=subprocess.PIPE,
            env={**os.environ, **folders},
            check=True,
            timeout=600,
        )
        on_disk = sum(path.stat().st_size for path in Path(home).rglob("*") if path.is_file())
    said = json.loads(done.stdout)
    if said["samples"] != samples:
        raise RuntimeError(f"{reader} gave {said['samples']} samples, not {samples}")
    began_at = after["at"]["byte"] if after else 0
    sent = _asked(f"{url}/counts")["bytes"]
    return {**said, "sent": sent, "on_disk_mb": on_disk / 2**20, "began_at": began_at}


def _medians(readings: list[Reading]) -> Reading:
    return {key: median(reading[key] for reading in readings) for key in readings[0]}


def _middle(kind: str, shape: dict[str, int]) -> dict[str, Any]:
    """The cursor that a stream would have had there."""
    blocks = shape["size"] // shape["block"] // 2
    place = {"byte": blocks * shape["block"], "line": blocks * LINES, "stamp": {"etag": ETAG, "size": shape["size"]}}
    return {"at": {**place, **({"key": KEY} if kind == "s3" else {})}, "count": blocks * LINES}


@contextmanager
def _served(size: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.made_up_file", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        # The server ends when its stdin closes.
        server.communicate()


def _asked(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, int] = json.load(answer)
    return found


if __name__ == "__main__":
    run()
