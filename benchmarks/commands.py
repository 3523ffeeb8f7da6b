"""A node's dozen commands on two cores: how well they are routed, and how soon a node has its adapter.

The real service in this process, with the embedded base, its routes asked over HTTP: commands are posted, trained,
judged and published to a folder, then one command is changed. What goes on from the live adapter is held against the
same commands trained afresh, as another node's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from adapter_service.api.services import build_services
from adapter_service.cli.http_server import http_server
from adapter_service.demo.home_hub import demo_commands
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.measuring.service_client import ServiceClient
from adapter_service.settings import ServingSettings, StorageSettings, load_settings
from benchmarks.serving import keep_bases

RESULTS = Path("benchmarks/results/commands.json")
_RESUBMISSIONS = 50
_POLL_SECONDS = 0.5
_MINUTES = 60.0


def run(console: Console | None = None) -> None:
    """Measure with the configured base, and write the results."""
    console = console or Console()
    with _service() as client:
        new, new_seconds = _trained(client, "first", demo_commands())
        console.print(f"a new node: {new_seconds:.0f} s")
        again = _resubmissions(client, "first", demo_commands())
        changed, changed_seconds = _trained(client, "first", _with_a_change())
        console.print(f"one changed command: {changed_seconds:.0f} s")
        afresh, afresh_seconds = _trained(client, "second", _with_a_change())
        console.print(f"the same afresh: {afresh_seconds:.0f} s")
    rows = [
        *_quality("a new node", new["gate"]["metrics"], judged=True),
        *_quality("one changed command, going on from what is live", changed["gate"]["metrics"], judged=True),
        *_quality("the same changed commands, trained afresh", afresh["gate"]["metrics"], judged=False),
        _seconds("time: a new node of a dozen commands, posted to published", new_seconds, 15 * _MINUTES),
        _seconds("time: one changed command, posted to published", changed_seconds, 5 * _MINUTES),
        Result(
            "time: one changed command, going on",
            round(changed_seconds, 1),
            "s",
            "trained afresh",
            round(afresh_seconds, 1),
            changed_seconds / afresh_seconds,
        ),
        _seconds(f"time: the same commands again, median of {_RESUBMISSIONS}", statistics.median(again), 0.05),
    ]
    write_results(RESULTS, rows)
    for row in rows:
        console.print(f"{row.measure}: {row.figure:.4g} {row.unit}")
    console.print(f"results in {RESULTS}")


@contextmanager
def _service() -> Iterator[ServiceClient]:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        keep_bases(state)
        settings = load_settings(environ={})
        own = {
            "storage": StorageSettings(state_dir=state),
            "serving": ServingSettings(port=0),
            # A node may ask so often here, as nobody else does.
            "commands": settings.commands.model_copy(update={"max_jobs_per_hour": 1000}),
        }
        with http_server(build_services(settings.model_copy(update=own))) as url, ServiceClient(url) as client:
            while client.ask("GET", "/health")["engine"]["state"] != "ready":
                time.sleep(_POLL_SECONDS)
            yield client


def _trained(client: ServiceClient, node_id: str, commands: list[dict[str, Any]]) -> tuple[Mapping[str, Any], float]:
    """The job that has ended well, and the seconds from its posting to its publication."""
    began_at = time.monotonic()
    job_id = client.ask("POST", "/api/v0/adapters/train", _body(node_id, commands))["job_id"]
    while True:
        job = client.ask("GET", f"/api/v0/adapters/jobs/{job_id}")
        if job["status"] in {"complete", "failed", "canceled"}:
            break
        time.sleep(_POLL_SECONDS)
    if job["status"] != "complete":
        raise RuntimeError(f"{job['status']}: {job['error']} {job['gate']}")
    return job, time.monotonic() - began_at


def _resubmissions(client: ServiceClient, node_id: str, commands: list[dict[str, Any]]) -> list[float]:
    seconds = []
    for _ in range(_RESUBMISSIONS):
        began_at = time.perf_counter()
        answer = client.ask("POST", "/api/v0/adapters/train", _body(node_id, commands))
        seconds.append(time.perf_counter() - began_at)
        if not answer["deduped"]:
            raise RuntimeError("the same commands were taken for others")
    return seconds


def _body(node_id: str, commands: list[dict[str, Any]]) -> dict[str, Any]:
    return {"node_id": node_id, "base_model_id": load_settings(environ={}).model.base, "command_schema": commands}


def _with_a_change() -> list[dict[str, Any]]:
    """The dozen, of which one has another description and one more example."""
    commands = demo_commands()
    changed = next(command for command in commands if command["command_name"] == "play_music")
    changed["description"] = "Play music of a style, by an artist, or a song"
    example = {
        "voice_command": "Play some reggae in the attic",
        "expected_parameters": {"what": "reggae", "room": "attic"},
    }
    changed["examples"] = [*changed["examples"], example]
    return commands


def _quality(which: str, metrics: Mapping[str, Any], *, judged: bool) -> Iterator[Result]:
    for what, key, least in (
        ("the right function", "tool_accuracy", 0.95),
        ("exact arguments", "exact_accuracy", 0.8),
        ("refusals, and other commands' sentences", "refusal_accuracy", None),
        ("valid answers", "valid_share", None),
    ):
        negatives, positives = metrics["negatives"], metrics["sentences"]
        count = {"refusal_accuracy": negatives, "valid_share": negatives + positives}.get(key, positives)
        target = least if judged else None
        met = None if target is None else metrics[key] >= target
        yield Result(f"{which}: {what}", round(metrics[key], 4), f"of 1 in {count} sentences", target=target, met=met)


def _seconds(measure: str, seconds: float, target: float) -> Result:
    return Result(measure, round(seconds, 4), "s", target=target, met=seconds <= target)
