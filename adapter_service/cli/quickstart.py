"""`make run`: the whole service at work on its sample corpus, told stage by stage.

It starts the server, asks it over HTTP as any client would, and shows what it says: train, gate,
twenty prompts, an evaluation, and then it goes on serving.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from adapter_service import sample_corpus
from adapter_service.api.log_lines import log_as_json_lines
from adapter_service.api.services import Services, build_services
from adapter_service.cli.http_server import http_server
from adapter_service.cli.progress import run_progress
from adapter_service.connectors.opening import configured
from adapter_service.connectors.registry import open_source
from adapter_service.engine.turn import Turn
from adapter_service.errors import BusyError, NotReadyError, RunFailedError
from adapter_service.measuring.evaluation_report import rich_table
from adapter_service.measuring.evaluation_run import evaluate_version
from adapter_service.measuring.provenance import Result
from adapter_service.measuring.service_client import ServiceClient
from adapter_service.measuring.smoke_run import smoke_service
from adapter_service.sample_corpus.server import serve_sample_corpus
from adapter_service.samples import Sample
from adapter_service.settings import LossSettings, Settings
from adapter_service.settings.sections import loss_name

SOURCE = "sample_http"
# What `make run` reaches its targets with in under half an hour on two cores; see README, "Quality". Over a sampled
# vocabulary a step takes two thirds to four fifths of the time, and after as many steps the full loss is 1.2 % higher.
RECIPE: dict[str, Any] = {"max_train_samples": 10_500, "num_epochs": 1}
_POLL_SECONDS = 1.0
# Ten steps' worth: enough to see the speed, half a minute on two cores.
_SPEED_SAMPLES = 140


def run(settings: Settings, console: Console, *, serve_after: bool, hours: float | None = None) -> None:
    """Run all stages; with `hours`, train for about so long by this machine's measured speed.

    Raises:
        BusyError: the port is taken.
        NotReadyError: the base cannot be loaded.
        RunFailedError: the job failed, or the gate rejected what it made; with the reason.
    """
    _check_port(settings)
    log_file = settings.storage.state_dir / "service.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_as_json_lines(log_file)
    with serve_sample_corpus() as port:
        os.environ["ADAPTER_SAMPLE_PORT"] = str(port)
        services = build_services(settings)
        clock = _Clock()
        with http_server(services) as url, ServiceClient(url) as client:
            client.ask("GET", "/health")
            clock.note("start to the first answer of /health", target_seconds=2)
            console.print(f"serving on {url}  (GET /health, GET /docs); log in {log_file}", soft_wrap=True)
            _wait_for_base(client, console)
            recipe = _recipe_for(hours, services, console) if hours else RECIPE
            job_id = _unfinished(services, console) or _submit(client, console, services, recipe)
            job = _follow(client, console, clock, job_id)
            _report_gate(job, console)
            _measure(services, url, console, clock)
            if serve_after:
                console.print(f"\nserving on {url} until Ctrl-C; try:\n{_EXAMPLE.format(url=url)}")
                _wait_for_interrupt()


class _Clock:
    """Seconds since this process was started, noted at the moments that have a target."""

    def __init__(self) -> None:
        self._started = psutil.Process().create_time()
        self.noted: list[Result] = []

    def note(self, moment: str, *, target_seconds: float | None) -> None:
        seconds = time.time() - self._started
        met = None if target_seconds is None else seconds <= target_seconds
        self.noted.append(Result(moment, round(seconds, 2), "s", target=target_seconds, met=met))


def _check_port(settings: Settings) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((settings.serving.host, settings.serving.port)) == 0:
            raise BusyError(
                f"something listens on {settings.serving.host}:{settings.serving.port} already; stop it, or set "
                "ADAPTER_SERVING__PORT to a free port"
            )


def _wait_for_base(client: ServiceClient, console: Console) -> None:
    started = time.monotonic()
    with console.status("the base loads") as status:
        while True:
            engine = client.ask("GET", "/health")["engine"]
            if engine["state"] == "ready":
                break
            if engine["state"] == "failed":
                raise NotReadyError(f"the base could not be loaded: {engine['note']}")
            status.update(f"the base: {engine['note']}")
            time.sleep(_POLL_SECONDS)
    health = client.ask("GET", "/health")
    precision, seconds = health["precision"], time.monotonic() - started
    console.print(f"base {health['base']} is ready after {seconds:.0f} s ({precision['reason']})", soft_wrap=True)


def _recipe_for(hours: float, services: Services, console: Console) -> dict[str, Any]:
    """As many epochs of the whole corpus as fit into `hours` at the speed that a few steps have here."""
    stream = open_source(configured(services.settings, SOURCE)).stream()
    samples = [sample for _, sample in islice(stream, _SPEED_SAMPLES)]
    speed = services.engine.run(lambda turn: _samples_per_second(turn, samples, services.settings.loss))
    fitting, corpus = int(hours * 3600 * speed), sample_corpus.size()
    recipe = {"max_train_samples": min(fitting, corpus), "num_epochs": max(1, round(fitting / corpus))}
    console.print(f"{speed:.1f} samples/s here: about {hours:g} h are {recipe}", soft_wrap=True)
    return recipe


def _samples_per_second(turn: Turn, samples: list[Sample], loss: LossSettings) -> float:
    """The speed of some steps of the corpus, with an adapter that is thrown away."""
    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.settings import TrainingSettings
    from adapter_service.training.loop import Hooks, train
    from adapter_service.training.state import begin

    settings = TrainingSettings()
    rendered = [turn.renderer.render(sample, settings.max_seq_length) for sample in samples]
    state = begin(Adapter.fresh(LoraConfig(), turn.layers, seed=0, device=turn.base.device), settings)
    result = train(turn.base, rendered, state, settings, Hooks(pause=turn.pause), loss)
    return result.samples / result.seconds


def _unfinished(services: Services, console: Console) -> str | None:
    """The job that an earlier `make run` was stopped in, if there is one: it goes on from its checkpoint."""
    adapter = services.settings.serving.default_adapter
    for job in services.jobs.list():
        if job.adapter == adapter and not job.status.finished:
            console.print(f"job {job.id} of an earlier run goes on")
            return job.id
    return None


def _submit(client: ServiceClient, console: Console, services: Services, recipe: Mapping[str, Any]) -> str:
    body = {"adapter": services.settings.serving.default_adapter, "source": SOURCE, **recipe}
    accepted = client.ask("POST", "/adapter/train-lite", body)
    console.print(f"job {accepted['job_id']}: {accepted['estimate']['message']}", soft_wrap=True)
    return str(accepted["job_id"])


def _follow(client: ServiceClient, console: Console, clock: _Clock, job_id: str) -> Mapping[str, Any]:
    """Show how far the job is until it ends."""
    asked = False
    with run_progress(console) as progress:
        while True:
            job = client.ask("GET", f"/adapter/status/{job_id}")
            progress.show(job["phase"] or job["status"], **_figures(job))
            if job["finished_at"] is not None:
                break
            if job["step"] > 2 and not asked:
                asked = True
                _ask_base(client, console)
                clock.note("start to the base's first answer while it trains", target_seconds=120)
            time.sleep(_POLL_SECONDS)
    if job["status"] != "succeeded":
        reason = (job["error"] or {}).get("message", job["message"])
        raise RunFailedError(f"job {job_id} {job['status']}: {reason}")
    return job


def _figures(job: Mapping[str, Any]) -> dict[str, Any]:
    if job["phase"] == "training" and not job["total_steps"]:
        return {}  # the first step is under way
    if job["phase"] == "training":
        loss, speed = job["loss"] or 0.0, job["tokens_per_second"] or 0.0
        name = loss_name(job["details"].get("loss_vocabulary", "all"))
        left = f"{job['seconds_left'] / 60:.1f} min left" if job["seconds_left"] is not None else ""
        figures = f"step {job['step']}/{job['total_steps']}  {name} {loss:.3f}  {speed:.0f} tokens/s  {left}"
        return {"completed": job["step"], "total": job["total_steps"], "figures": figures}
    if job["phase"] in {None, "streaming"}:
        return {"figures": f"{job['samples'].get('used', 0)} samples"}
    return {"figures": f"the new version beside the base, on {job['samples'].get('held_out', 0)} held-out samples"}


def _ask_base(client: ServiceClient, console: Console) -> None:
    """Show that the service answers while it trains."""
    body = {"prompt": "The capital of France is", "adapter": "base", "max_new_tokens": 12}
    answer = client.ask("POST", "/generate-lite", body)
    console.print(
        f"while it trains, the base answers in {answer['latency_ms'] / 1000:.1f} s: {body['prompt']}{answer['text']}",
        soft_wrap=True,
    )


def _report_gate(job: Mapping[str, Any], console: Console) -> None:
    verdict = job["gate"] or {}
    console.print(f"gate: version {job['version']} {verdict.get('verdict', 'is live already')}")
    for reason in verdict.get("reasons", ()):
        console.print(f"  {reason}", soft_wrap=True)


def _measure(services: Services, url: str, console: Console, clock: _Clock) -> None:
    settings = services.settings
    version = services.versions.live(settings.serving.default_adapter)
    if version is None:
        raise RunFailedError("the gate rejected the adapter, so there is nothing to ask; its reasons are above")
    console.print(f"\n100 held-out pairs, {version.reference} beside the base …")
    evaluation = evaluate_version(settings, services.engine, version, SOURCE)
    console.print(rich_table(evaluation))
    console.print("\ntwenty prompts over HTTP, base beside adapter …")
    smoke_service(
        settings,
        console,
        url=url,
        adapter=version.adapter,
        prompts=Path("test_prompts/prompts_10.json"),
        output=Path("smoke_results.md"),
        source=SOURCE,
        evaluation=evaluation,
        timings=lambda: _timings(clock),
    )


def _timings(clock: _Clock) -> list[Result]:
    clock.note("start to the results of make run", target_seconds=1800)
    return clock.noted


def _wait_for_interrupt() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


_EXAMPLE = """\
  curl -s {url}/generate-lite -H 'Content-Type: application/json' \\
    -d '{{"prompt": "Translate to Hindi: Good morning", "lang": "hi"}}'"""
