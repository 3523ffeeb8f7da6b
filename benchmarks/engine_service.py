"""The real service in the benchmark's own process, so that one and the same engine can be asked over HTTP and directly.

What the engine counts for `/metrics` is kept here value by value. Its prefix cache is off: prompts that come
again and again would be answered out of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from adapter_service.adapters import Version, VersionStore
from adapter_service.api import create_app
from adapter_service.api.services import Services, build_services
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import GenerationResult
from adapter_service.engine.measures import Measures
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.engine.turn import Turn
from adapter_service.settings import ModelSettings, ServingSettings, Settings, StorageSettings, load_settings
from benchmarks.serving import keep_bases
from benchmarks.training_rows import make_rows

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter

RANK = 16
PROMPT_TOKENS = 32  # fewer than a chunk: every prompt is read in one pass
_LORA_STD = 0.01


class Recorded(Measures):
    """Seconds to first tokens and between tokens, each as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.first_tokens: list[float] = []
        self.between_tokens: list[float] = []

    def first_token(self, seconds: float) -> None:
        super().first_token(seconds)
        self.first_tokens.append(seconds)

    def token(self, seconds: float) -> None:
        super().token(seconds)
        self.between_tokens.append(seconds)

    def forget(self) -> None:
        self.first_tokens.clear()
        self.between_tokens.clear()


@dataclass(frozen=True)
class ServiceHere:
    """A running service, and rank-16 versions in its store, more than there are slots."""

    services: Services
    measured: Recorded
    told: Measures  # what the engine made itself, and tells of its state with
    url: str
    prompts: list[list[int]] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        return self.services.engine

    @property
    def files(self) -> list[AdapterFiles]:
        return [AdapterFiles.of(version) for version in self.versions]

    def counted(self, name: str) -> float:
        """What `/metrics` says."""
        found = self.told.registry.get_sample_value(name)
        assert found is not None
        return found

    def ask(self, number: int, adapter: AdapterFiles | None, tokens: int) -> Ask:
        """The `number`-th prompt, greedily, for exactly so many tokens."""
        prompt = self.prompts[number % len(self.prompts)]
        return Ask(prompt, Sampling(max_new_tokens=tokens, min_new_tokens=tokens), adapter)

    def first_token(self, ask: Ask) -> float:
        """Milliseconds to the first token of one request by itself."""
        self.measured.forget()
        self.engine.submit(ask).result()
        return self.measured.first_tokens[0] * 1000

    def together(self, asks: Sequence[Ask]) -> float:
        """Seconds for requests that come at one moment."""
        started = time.perf_counter()
        generations = [self.engine.submit(ask) for ask in asks]
        for generation in generations:
            checked(generation.result())
        return time.perf_counter() - started

    def closed_loop(self, clients: Sequence[AdapterFiles | None], requests: int, tokens: int) -> float:
        """Seconds in which each client makes so many requests, each after its last one's answer."""
        started = time.perf_counter()
        with ThreadPoolExecutor(len(clients)) as pool:
            made = [
                pool.submit(self._client, place, adapter, requests, tokens) for place, adapter in enumerate(clients)
            ]
            for each in made:
                each.result()
        return time.perf_counter() - started

    def _client(self, place: int, adapter: AdapterFiles | None, requests: int, tokens: int) -> None:
        for number in range(requests):
            checked(self.engine.submit(self.ask(place + number, adapter, tokens)).result())


def checked(result: GenerationResult) -> GenerationResult:
    """A result that ended as it should."""
    if any(choice.finish_reason != "length" for choice in result.choices):
        raise SystemExit(f"an answer ended early: {[choice.finish_reason for choice in result.choices]}")
    return result


@contextmanager
def service_here(state: Path, base: str, *, adapters: int, **serving: int | float | str) -> Iterator[ServiceHere]:
    """A service of `base` that listens on loopback, with that many live versions; `serving` are its settings."""
    keep_bases(state)
    settings = Settings(
        model=ModelSettings(base=base, device="cpu"),
        storage=StorageSettings(state_dir=state),
        serving=ServingSettings.model_validate({"prefix_cache_bytes": 0, **serving}),
    )
    services, measured = build_services(settings), Recorded()
    told, services.engine.measures = services.engine.measures, measured
    with _listening(services) as url:
        engine = services.engine
        engine.wait_until_ready()
        rows = make_rows(load_settings(), engine.base.tokenizer, 64, seed=0)
        prompts = [list(row.ids[:PROMPT_TOKENS]) for row in rows if len(row.ids) >= PROMPT_TOKENS]
        made = engine.run(lambda turn: [publish(turn, services.versions, state, number) for number in range(adapters)])
        yield ServiceHere(services, measured, told, url, prompts, made)


@contextmanager
def _listening(services: Services) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(services=services), port=0, log_config=None))
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise SystemExit("the service did not start")
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def publish(turn: Turn, versions: VersionStore, state: Path, seed: int, *, weights: Path | None = None) -> Version:
    """A live version of random weights of rank 16 on every linear layer, or of those in the folder `weights`."""
    from adapter_service.lora.folder import CONFIG_FILE, WEIGHTS_FILE, write_folder

    work = state / "work" / f"{seed:04}"
    work.mkdir(parents=True)
    if weights is None:
        write_folder(random_adapter(turn, seed), work, base_name=turn.base.name)
    else:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (work / name).hardlink_to(weights / name)
    key = f"{seed:064x}"
    version = versions.publish(f"random-{seed}", work, key=key, job_id=None, base_id=turn.base.identity)
    return versions.go_live(version)


def random_adapter(turn: Turn, seed: int) -> Adapter:
    """One that changes what is answered: PEFT's default starts with B zero."""
    import torch

    from adapter_service.lora.adapter import Adapter, LoraConfig

    adapter = Adapter.fresh(LoraConfig(r=RANK), turn.layers, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for pair in adapter.pairs.values():
        pair.b.data.normal_(std=_LORA_STD, generator=generator)
    return adapter
