"""Two hundred nodes of ten commands each that post all at once, over HTTP, and what the queue makes of it.

The real service as a process of its own, which trains the first of them meanwhile. Each node posts, posts the same
again, and posts a change.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import requests
from rich.console import Console

from adapter_service.demo.home_hub import demo_commands
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.settings import load_settings
from benchmarks.serving import keep_bases, serving

RESULTS = Path("benchmarks/results/commands_load.json")
NODES, COMMANDS, CLIENTS = 200, 10, 16
_MAX_P95_SECONDS = 0.25


def run(console: Console | None = None) -> None:
    console = console or Console()
    first, changed = _payloads(0), _payloads(1)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        keep_bases(state)
        environment = {"ADAPTER_SECURITY__REQUESTS_PER_MINUTE": "0"}
        with serving(state, base=load_settings(environ={}).model.base, environment=environment) as (_, client):
            url = client.base_url
            rounds = {"first": _round(url, first), "again": _round(url, first), "changed": _round(url, changed)}
            rows = [*_latencies(rounds), *_queue(rounds, state / "service.db")]
    write_results(RESULTS, rows)
    for row in rows:
        console.print(f"{row.measure}: {row.figure:.4g} {row.unit}")
    console.print(f"results in {RESULTS}")


Answer = tuple[float, dict[str, Any]]


def _round(url: str, payloads: Sequence[bytes]) -> list[Answer]:
    """Every node posts once, so many at a time."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(lambda payload: _post(url, payload), payloads))


def _post(url: str, payload: bytes) -> Answer:
    began_at = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    response = requests.post(f"{url}/api/v0/adapters/train", data=payload, headers=headers, timeout=60)
    seconds = time.perf_counter() - began_at
    response.raise_for_status()
    return seconds, response.json()


def _payloads(change: int) -> list[bytes]:
    """Of each node, whose first command is its own."""
    base, commands, made = load_settings(environ={}).model.base, demo_commands()[:COMMANDS], []
    for node in range(NODES):
        first = commands[0] | {"description": f"Start a countdown at home number {node}, change {change}"}
        body = {"node_id": f"node{node:03d}", "base_model_id": base, "command_schema": [first, *commands[1:]]}
        made.append(json.dumps(body).encode())
    return made


def _latencies(rounds: dict[str, list[Answer]]) -> Iterator[Result]:
    for name, answers in rounds.items():
        seconds = [one for one, _ in answers]
        p95 = statistics.quantiles(seconds, n=20)[-1]
        yield Result(
            f"{NODES} nodes of {COMMANDS} commands post ({name}), {CLIENTS} at a time: p95 of an answer",
            round(p95 * 1000, 1),
            "ms",
            target=_MAX_P95_SECONDS * 1000,
            met=p95 <= _MAX_P95_SECONDS,
        )


def _queue(rounds: dict[str, list[Answer]], database: Path) -> Iterator[Result]:
    with closing(sqlite3.connect(database)) as connection:
        wanted = "status IN ('queued', 'running') AND NOT cancel_requested"
        newest = dict(connection.execute(f"SELECT node_id, id FROM jobs WHERE {wanted}").fetchall())
        waiting = connection.execute(f"SELECT count(*) FROM jobs WHERE {wanted}").fetchone()[0]
        replaced = connection.execute("SELECT count(*) FROM jobs WHERE cancel_requested").fetchone()[0]
    deduped = sum(answer["deduped"] for _, answer in rounds["again"])
    kept = sum(newest.get(answer["node_id"]) == answer["job_id"] for _, answer in rounds["changed"])
    yield _all("the same again is the same job", deduped)
    yield _all("a change replaces what waits", replaced)
    yield _all("jobs that wait or run, one of each node", waiting)
    yield _all("newest snapshots in the queue, none lost", kept)


def _all(measure: str, count: int) -> Result:
    return Result(measure, count, f"of {NODES} nodes", target=NODES, met=count == NODES)
