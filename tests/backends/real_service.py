"""The service over the small real base with two strong adapters, answered by its engine or by servers of others."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from adapter_service.api.services import Services, build_services
from adapter_service.engine.turn import Turn
from adapter_service.settings import BackendSettings, ModelSettings, ServingSettings, Settings, StorageSettings
from tests.api.conftest import QuickPipeline
from tests.api.listening import listening
from tests.conftest import ROOT, SMALL_BASE
from tests.waiting import eventually

ADAPTERS = {"warm": 1, "cold": 2}
MODELS = ("base", *ADAPTERS)
PROMPTS = (
    "The capital of France is",
    "Water is",
    "Once upon a time",
    "def add(a, b):",
    "The weather today",
    "Give me 😀 an emoji:",
)


@dataclass(frozen=True)
class Answer:
    """A text, its tokens' texts, and by how much the best of each was above the next one, in nats."""

    text: str
    tokens: list[str] = field(default_factory=list)
    leads: list[float] = field(default_factory=list)

    def sure(self, bound: float) -> str:
        """The text before the first token that was less than `bound` above the next best."""
        place = next((place for place, lead in enumerate(self.leads) if lead < bound), len(self.leads))
        said = "".join(self.tokens[:place])
        if place == len(self.leads):
            return self.text
        # Tokens that are parts of characters are no text by themselves.
        equal = (index for index, (ours, theirs) in enumerate(zip(self.text, said, strict=False)) if ours != theirs)
        return self.text[: next(equal, min(len(self.text), len(said)))]


class Client:
    """Speaks to the service as others do."""

    def __init__(self, url: str, services: Services) -> None:
        self.services = services
        self.http = httpx2.Client(base_url=url, timeout=600, trust_env=False)

    def complete(self, model: str, prompt: str, **body: Any) -> str:
        """The greedy text."""
        asked = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 24, **body}
        response = self.http.post("/v1/completions", json=asked)
        assert response.status_code == 200, response.text
        text: str = response.json()["choices"][0]["text"]
        return text

    def scored(self, model: str, prompt: str, **body: Any) -> Answer:
        """The same with what is needed to tell which of its tokens were nearly others."""
        asked = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 24, "logprobs": 2, **body}
        (choice,) = self.http.post("/v1/completions", json=asked).raise_for_status().json()["choices"]
        tops = [sorted(top.values(), reverse=True) for top in choice["logprobs"]["top_logprobs"]]
        leads = [top[0] - top[1] if len(top) > 1 else 0.0 for top in tops]
        return Answer(choice["text"], choice["logprobs"]["tokens"], leads)

    def stream(self, model: str, prompt: str, **body: Any) -> Generator[str, None, None]:
        """The pieces of the greedy text as they come."""
        asked = {"model": model, "prompt": prompt, "temperature": 0, "stream": True, **body}
        with self.http.stream("POST", "/v1/completions", json=asked) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    assert "error" not in event, event
                    yield from (choice["text"] for choice in event["choices"])

    def health(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.http.get("/health").json()
        return found

    def wait_until_answering(self) -> None:
        eventually(lambda: self.http.get("/ready").status_code == 200, "the back end answers", seconds=300)

    def publish(self, name: str, seed: int) -> str:
        """Let a version of strong random weights go live, as a job does; its reference."""
        services = self.services
        folder = services.settings.storage.state_dir / f"work-{name}-{seed}"
        folder.mkdir()
        services.engine.run(lambda turn: _write(turn, folder, seed))
        identity = services.engine.base.identity
        version = services.versions.publish(name, folder, key=f"{seed:064x}", job_id=None, base_id=identity)
        from adapter_service.engine.requests import AdapterFiles

        services.engine.load(AdapterFiles.of(version))
        return services.versions.go_live(version).reference


@contextmanager
def running(state: Path, **backend: Any) -> Iterator[Client]:
    """In float32, so that equal computations come to nearly equal numbers; its adapters are `ADAPTERS`."""
    bases = Path(os.environ.get("ADAPTER_TEST_BASES", ROOT / ".state" / "test-bases"))
    bases.mkdir(parents=True, exist_ok=True)
    state.mkdir(exist_ok=True)
    (state / "bases").symlink_to(bases)
    settings = Settings(
        model=ModelSettings(base=SMALL_BASE, device="cpu", dtype="float32"),
        storage=StorageSettings(state_dir=state),
        serving=ServingSettings(kernel="as_loaded", repetition_penalty=1.0, foreign_script_penalty=0.0),
        backend=BackendSettings(**backend),
    )
    services = build_services(settings, make_pipeline=lambda *_: QuickPipeline())
    services.start()
    try:
        services.engine.wait_until_ready(300)
        with listening(services) as url:
            client = Client(url, services)
            with client.http:
                client.wait_until_answering()
                for name, seed in ADAPTERS.items():
                    client.publish(name, seed)
                yield client
    finally:
        services.stop()


def serial_answers(state: Path) -> dict[tuple[str, str], Answer]:
    """What the engine says to each prompt by each model."""
    with running(state) as client:
        return {(model, prompt): client.scored(model, prompt) for model in MODELS for prompt in PROMPTS}


def assert_same(found: str, expected: Answer, bound: float) -> None:
    """Equal up to the first token that was nearly another."""
    sure = expected.sure(bound)
    assert found[: len(sure)] == sure, (found, expected.text)


def _write(turn: Turn, folder: Path, seed: int) -> None:
    """With all that an adapter's configuration may say of ranks and scales."""
    import torch

    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.lora.folder import write_folder

    config = LoraConfig(
        r=8,
        alpha=16,
        use_rslora=True,
        rank_pattern={"q_proj": 4, "layers.3.mlp.up_proj": 2},
        alpha_pattern={"down_proj": 5},
    )
    adapter = Adapter.fresh(config, turn.layers, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for pair in adapter.pairs.values():
        pair.b.data.copy_(torch.randn(pair.b.shape, generator=generator) * 0.02)
    write_folder(adapter, folder, base_name=turn.base.name)
