"""The service under load, as a process of its own: does it keep its memory, and does it still say how it is?

First, 1,000 answers by twenty adapters (400 in the short version), of which eight fit into memory, so that most
calls load one and drop one; resident memory after each call. Then `/health`, twenty times a second: while nothing
else happens, and while a job trains and two clients generate. Client and service share the machine, as they do at
home.
"""

from __future__ import annotations

import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from rich.console import Console

from adapter_service.adapters import VersionStore
from adapter_service.database import Database
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.measuring.service_client import ServiceClient
from benchmarks.serving import keep_bases, serving, until

RESULTS = Path("benchmarks/results/service.json")
BASE = "package:smollm2-135m"
ADAPTERS = 20
CALLS = {False: 400, True: 1000}
SETTLED = 200  # until then caches fill
GROWTH_MB = 10.0
HEALTH_MS = 50.0
_PROBES_PER_SECOND = 20
_SECONDS = {False: 20.0, True: 300.0}
_NEW_TOKENS = 2
_PROMPTS = ("The capital of France is", "Translate to Hindi: Good morning", "Two and two make", "Water is")
# Far more than is trained here: the job is cancelled at the end.
_JOB = {"adapter": "bench", "source": "multilingual_corpus", "max_train_samples": 5000, "num_epochs": 10}


def run(*, full: bool, console: Console | None = None) -> None:
    """Measure and write the results."""
    console = console or Console()
    with tempfile.TemporaryDirectory(prefix="service-bench-") as folder:
        state = Path(folder)
        keep_bases(state)
        names = _make_adapters(state)
        with serving(state, base=BASE) as (process, client):
            console.print(f"{CALLS[full]} answers by {ADAPTERS} adapters …")
            memory = _memory_along_calls(process, client, names, CALLS[full])
            console.print("/health …")
            idle, busy = _health(client, names, _SECONDS[full])
    rows = [*_memory_rows(memory), *_health_rows(idle, busy)]
    write_results(RESULTS, rows)
    for row in rows:
        console.print(f"{row.measure}: {row.figure:.4g} {row.unit}", markup=False)


def _make_adapters(state: Path) -> list[str]:
    """Random adapters for the base, live; made here, so that the service has loaded nothing for them."""
    import torch

    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.lora.folder import write_folder
    from adapter_service.lora.layer import install
    from adapter_service.model_utils import load_base

    base = load_base(BASE, bases_dir=state / "bases", device="cpu")
    layers = install(base.model, keep=base.model.get_output_embeddings())
    database = Database(state / "service.db")
    versions = VersionStore(database, state / "adapters")
    names = [f"random-{number}" for number in range(ADAPTERS)]
    for seed, name in enumerate(names):
        adapter = Adapter.fresh(LoraConfig(r=16), layers, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for pair in adapter.pairs.values():
            pair.b.data.normal_(std=0.01, generator=generator)
        work = state / "work" / name
        work.mkdir(parents=True)
        write_folder(adapter, work, base_name=base.name)
        version = versions.publish(name, work, key=f"{seed:064x}", job_id=None, base_id=base.identity)
        versions.go_live(version)
    database.close()
    return names


def _generate(client: ServiceClient, adapter: str, number: int, tokens: int) -> None:
    body = {
        "prompt": _PROMPTS[number % len(_PROMPTS)],
        "adapter": adapter,
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
    }
    client.ask("POST", "/generate-lite", body)


def _memory_along_calls(
    process: psutil.Process, client: ServiceClient, names: Sequence[str], calls: int
) -> list[float]:
    """Resident MiB after each call."""
    resident = []
    for number in range(calls):
        # Seven steps on a circle of twenty: every adapter in turn, and never one that is still in memory.
        _generate(client, names[number * 7 % len(names)], number, _NEW_TOKENS)
        resident.append(process.memory_info().rss / 2**20)
    return resident


def _memory_rows(resident: Sequence[float]) -> list[Result]:
    settled = statistics.median(resident[SETTLED - 10 : SETTLED + 10])
    last = statistics.median(resident[-20:])
    calls = len(resident)
    slope = statistics.linear_regression(range(calls - SETTLED), resident[SETTLED:]).slope * 1024
    growth = last - settled
    return [
        Result(
            f"resident memory after {calls} calls over {ADAPTERS} adapters", last, "MiB",
            f"after {SETTLED} calls", settled, last / settled,
        ),
        Result(
            f"growth from call {SETTLED} to call {calls}", growth, "MiB", target=GROWTH_MB, met=growth <= GROWTH_MB
        ),
        Result(f"slope from call {SETTLED} on", slope, "KiB a call"),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Probed:
    """How long `/health` took, in milliseconds, and how many answers were given meanwhile."""

    milliseconds: list[float]
    answers: int = 0

    def quantile(self, share: float) -> float:
        return sorted(self.milliseconds)[min(len(self.milliseconds) - 1, int(share * len(self.milliseconds)))]


def _health(client: ServiceClient, names: Sequence[str], seconds: float) -> tuple[_Probed, _Probed]:
    """Of the idle service, then while a job trains and two clients generate."""
    idle = _Probed(_probe(client.base_url, seconds / 4))
    job_id = client.ask("POST", "/adapter/train-lite", _JOB)["job_id"]
    until(lambda: _trains(client, job_id))
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        load = [pool.submit(_keep_asking, client.base_url, names[place::2], stop) for place in range(2)]
        try:
            probed = _probe(client.base_url, seconds)
            if not _trains(client, job_id):
                raise SystemExit("the job ended before the measurement did; give it more samples")
        finally:
            stop.set()
    answers = sum(future.result() for future in load)
    client.ask("POST", f"/adapter/cancel/{job_id}")
    return idle, _Probed(probed, answers)


def _trains(client: ServiceClient, job_id: str) -> bool:
    status = client.ask("GET", f"/adapter/status/{job_id}")
    if status["status"] in {"failed", "cancelled"}:
        raise SystemExit(f"the job is {status['status']}: {status['message']}")
    return bool(status["phase"] == "training")


def _keep_asking(base_url: str, names: Sequence[str], stop: threading.Event) -> int:
    number = 0
    with ServiceClient(base_url) as client:
        while not stop.is_set():
            _generate(client, names[number % len(names)], number, 16)
            number += 1
    return number


def _probe(base_url: str, seconds: float) -> list[float]:
    """Milliseconds of one `/health` after the other on one connection, at even times."""
    where = urlsplit(base_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    taken: list[float] = []
    begun = time.monotonic()
    for number in range(int(seconds * _PROBES_PER_SECOND)):
        time.sleep(max(0.0, begun + number / _PROBES_PER_SECOND - time.monotonic()))
        sent = time.perf_counter()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        taken.append((time.perf_counter() - sent) * 1000)
        if response.status != 200:
            raise SystemExit(f"/health answered {response.status}")
    connection.close()
    return taken


def _health_rows(idle: _Probed, busy: _Probed) -> list[Result]:
    at = "while a job trains and two clients generate"
    rows = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        figure, peer = busy.quantile(share), idle.quantile(share)
        is_target = name == "p99"
        rows.append(
            Result(
                f"/health {name} {at}", figure, "ms", "the idle service", peer, figure / peer,
                HEALTH_MS if is_target else None, figure < HEALTH_MS if is_target else None,
            )
        )  # fmt: skip
    rows.append(Result(f"/health slowest of {len(busy.milliseconds)} {at}", max(busy.milliseconds), "ms"))
    rows.append(Result("answers given meanwhile", busy.answers, "of 16 tokens"))
    return rows
