"""`adapter-service demo commands`: a home hub at work on this machine, told stage by stage.

A node's dozen commands are posted, an adapter is trained, judged and published, and the node, a process of its own,
is told of it over MQTT and fetches it; then it is asked ten sentences that nobody has learned.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import yaml
from rich.console import Console
from rich.table import Table

from adapter_service.api.log_lines import log_as_json_lines
from adapter_service.api.services import build_services
from adapter_service.cli.http_server import http_server
from adapter_service.cli.progress import run_progress
from adapter_service.commands.dated_tools import with_dates
from adapter_service.commands.json_values import same
from adapter_service.commands.schema import Command
from adapter_service.commands.tools import tools_of
from adapter_service.commands.validation import read_commands
from adapter_service.conversation import Tool
from adapter_service.demo.mosquitto import Mosquitto, find_mosquitto, free_port
from adapter_service.demo.node_process import NodeProcess, node_process
from adapter_service.demo.s3_server import BUCKET, bucket
from adapter_service.durable import write_whole
from adapter_service.errors import RunFailedError
from adapter_service.measuring.provenance import commit, machine, versions
from adapter_service.measuring.service_client import ServiceClient
from adapter_service.settings import ArtifactSettings, MqttSettings, Settings

Store = Literal["s3", "folder"]
NODE_ID = "demo-home"
_ZONE = "Europe/Berlin"
_COMMANDS = Path(__file__).resolve().parents[1] / "commands" / "demo_commands.yml"
_SENTENCES = Path(__file__).with_name("sentences.yml")
_KEY, _SECRET = "DEMO_S3_ACCESS_KEY_ID", "DEMO_S3_SECRET_ACCESS_KEY"
_POLL_SECONDS = 1.0
_NODE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One sentence of the demonstration, and whether it was answered as it should be."""

    text: str
    answer: str
    right: bool
    latency_ms: float


def demo_commands() -> list[dict[str, Any]]:
    """The dozen commands as a node posts them."""
    commands: list[dict[str, Any]] = yaml.safe_load(_COMMANDS.read_text(encoding="utf-8"))
    return commands


def run(
    settings: Settings, console: Console, *, store: Store, commands: Sequence[Mapping[str, Any]] | None = None
) -> list[Asked]:
    """Run all stages in a state folder of the demonstration's own, begun anew, with `commands` or the dozen.

    Raises:
        RunFailedError: the broker, the S3 server or the job failed, with the reason.
    """
    state_dir = _fresh(settings.storage.state_dir)
    log_as_json_lines(state_dir / "service.log")
    broker = Mosquitto(find_mosquitto(settings.storage.state_dir / "mosquitto"), state_dir / "broker")
    broker.start()
    try:
        with _artifacts(store) as (artifacts, shown):
            own = settings.model_copy(
                update={
                    "storage": settings.storage.model_copy(update={"state_dir": state_dir}),
                    "serving": settings.serving.model_copy(update={"port": free_port()}),
                    "artifacts": artifacts,
                    "mqtt": MqttSettings(broker_url=broker.url),
                }
            )
            console.print(f"MQTT broker on {broker.url}; artifacts go to {shown}", soft_wrap=True)
            with http_server(build_services(own)) as url, ServiceClient(url) as client:
                console.print(f"the service is on {url}; its log is {state_dir / 'service.log'}", soft_wrap=True)
                with node_process(NODE_ID, broker.url, state_dir / "node", url) as node:
                    return _stages(own, client, node, console, commands or demo_commands())
    finally:
        broker.stop()


def write_results(asked: Sequence[Asked], path: Path) -> None:
    """Write what was asked and answered, with where it was; the README's table is made of it."""
    document = {
        "commit": commit(Path.cwd()),
        "machine": machine(),
        "versions": versions(),
        "rows": [asdict(one) for one in asked],
    }
    write_whole(path, json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def _stages(
    settings: Settings,
    client: ServiceClient,
    node: NodeProcess,
    console: Console,
    commands: Sequence[Mapping[str, Any]],
) -> list[Asked]:
    node.wait_for("listening", seconds=_NODE_SECONDS)
    console.print(f"node {NODE_ID!r} listens; posting {len(commands)} commands")
    body = {
        "node_id": NODE_ID,
        "base_model_id": settings.model.base,
        "command_schema": list(commands),
        "time_zone": _ZONE,
    }
    began_at = time.monotonic()
    accepted = client.ask("POST", "/api/v0/adapters/train", body)
    job = _follow(client, console, str(accepted["job_id"]))
    _report(job, console)
    activated = node.wait_for("activated", seconds=_NODE_SECONDS)
    seconds = time.monotonic() - began_at
    console.print(
        f"the node has verified and activated {activated['dataset_hash'][:12]}, {seconds:.0f} s after it posted"
    )
    node.wait_for("acknowledged", seconds=_NODE_SECONDS)
    again_at = time.monotonic()
    again = client.ask("POST", "/api/v0/adapters/train", body)
    console.print(
        f"the same commands again: deduped {str(again['deduped']).lower()}, answered in "
        f"{(time.monotonic() - again_at) * 1000:.0f} ms"
    )
    asked = list(_ask(client, read_commands(list(commands), settings.commands)))
    _show(asked, console)
    return asked


def _follow(client: ServiceClient, console: Console, job_id: str) -> Mapping[str, Any]:
    with run_progress(console) as progress:
        while True:
            job = client.ask("GET", f"/api/v0/adapters/jobs/{job_id}")
            left = f"{job['seconds_left']:.0f} s left" if job["seconds_left"] else ""
            progress.show(job["phase"] or job["status"], completed=job["progress_pct"], total=100, figures=left)
            if job["status"] in {"complete", "failed", "canceled"}:
                break
            time.sleep(_POLL_SECONDS)
    if job["status"] != "complete":
        raise RunFailedError(f"job {job_id} {job['status']}: {(job['error'] or {}).get('message', job['message'])}")
    return job


def _report(job: Mapping[str, Any], console: Console) -> None:
    metrics = job["gate"]["metrics"]
    for reason in job["gate"]["reasons"]:
        console.print(f"gate: {reason}", soft_wrap=True)
    table = Table("held-out sentences", "right function", "exact arguments", "refusals")
    rows = [*metrics["per_command"].items(), ("all", metrics)]
    for name, row in rows:
        shares = (row["tool_accuracy"], row["exact_accuracy"], row["refusal_accuracy"])
        table.add_row(f"{name} ({row['sentences']})", *("" if one is None else f"{one:.0%}" for one in shares))
    console.print(table)


def _ask(client: ServiceClient, commands: Sequence[Command]) -> Iterator[Asked]:
    """What the node's commands can be called with; a sentence of another command's is to be refused."""
    tools = {tool.name: tool for tool in tools_of(commands)}
    for sentence in yaml.safe_load(_SENTENCES.read_text(encoding="utf-8")):
        now = datetime.now(UTC)
        body = {"node_id": NODE_ID, "text": sentence["text"], "context": {"time_zone": _ZONE}}
        answer = client.ask("POST", "/api/v0/commands/route", body)
        calls = answer["tool_calls"]
        shown = f"{calls[0]['name']} {calls[0]['arguments']}" if calls else str(answer["message"] or answer["error"])
        yield Asked(sentence["text"], shown, _is_right(sentence, calls, tools, now), answer["latency_ms"])


def _is_right(
    wanted: Mapping[str, Any], calls: list[Mapping[str, Any]], tools: Mapping[str, Tool], now: datetime
) -> bool:
    if wanted["name"] not in tools or not calls:
        return wanted["name"] not in tools and not calls
    arguments = with_dates(tools[wanted["name"]], wanted["arguments"], now, ZoneInfo(_ZONE))
    return bool(calls[0]["name"] == wanted["name"] and same(dict(calls[0]["arguments"]), arguments))


def _show(asked: list[Asked], console: Console) -> None:
    table = Table("sentence", "answer", "as it should be", "ms")
    for one in asked:
        table.add_row(one.text, one.answer, "yes" if one.right else "no", f"{one.latency_ms:.0f}")
    console.print(table)
    console.print(f"{sum(one.right for one in asked)} of {len(asked)} sentences are routed exactly")


@contextmanager
def _artifacts(store: Store) -> Iterator[tuple[ArtifactSettings, str]]:
    """Where artifacts go, and what that is called."""
    if store == "folder":
        yield ArtifactSettings(), "a folder, handed out by the service"
        return
    with bucket() as server:
        os.environ[_KEY], os.environ[_SECRET] = server.access_key_id, server.secret_access_key
        settings = ArtifactSettings(
            kind="s3",
            bucket=BUCKET,
            endpoint_url=server.endpoint_url,
            region="us-east-1",
            access_key_id=f"${{{_KEY}}}",
            secret_access_key=f"${{{_SECRET}}}",
        )
        yield settings, server.shown


def _fresh(state_dir: Path) -> Path:
    """An empty folder beside what the service itself keeps, with its imported bases."""
    demo = state_dir / "demo"
    shutil.rmtree(demo, ignore_errors=True)
    demo.mkdir(parents=True)
    bases = state_dir / "bases"
    bases.mkdir(exist_ok=True)
    (demo / "bases").symlink_to(bases, target_is_directory=True)
    return demo
