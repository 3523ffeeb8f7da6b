"""A version goes live while requests run: those before it are answered by the one before, those after by itself."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.engine import generations
from adapter_service.engine.generations import Generation
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import InvalidParameterError, TooManyPinsError
from adapter_service.settings import ServingSettings
from tests.api.conftest import MakeServices, client_of
from tests.engine.asking import alone, assert_as_alone, assert_nothing_is_held, held, result_of, submit
from tests.engine.shelf import live, not_live, shelved
from tests.engine.test_soak import ANSWER, PROMPTS, ROUNDS, THREADS, Traffic, Training, trained, wanted_of
from tests.waiting import READY_SECONDS, eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

WAIT_SECONDS = 60.0


@pytest.fixture
def services(make_services: MakeServices, tiny_base: BaseModel) -> Iterator[Services]:
    """Running, with codes pinned."""
    serving = ServingSettings(
        max_active_requests=4, max_adapters=3, queue_size=8, prefix_cache_bytes=300_000, pinned_adapters=["codes"]
    )
    services = make_services(load_base=lambda note: tiny_base, serving=serving)
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    yield services
    services.stop()


@pytest.fixture
def client(services: Services) -> TestClient:
    """One for all threads, and asked once: an app builds its routes at its first request, and two may not at once."""
    client = client_of(services)
    assert client.get("/health").status_code == 200
    return client


def complete(client: TestClient, model: str, prompt: str, *, stream: bool) -> tuple[str, str] | None:
    """Over HTTP: which version answered, and what; None when too many are waiting."""
    body = {"model": model, "prompt": prompt, "max_tokens": ANSWER.max_new_tokens, "temperature": 0, "stream": stream}
    plain = {"repetition_penalty": 1.0, "foreign_script_penalty": 0.0}
    response = client.post("/v1/completions", json=body | plain)
    if response.status_code == 429:
        return None
    assert response.status_code == 200, response.text
    if not stream:
        return response.json()["model"], response.json()["choices"][0]["text"]
    *events, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events]
    (version,) = {chunk["model"] for chunk in chunks}
    return version, "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def test_over_http_those_who_asked_before_get_the_old_version_and_those_after_the_new(
    services: Services, client: TestClient, tmp_path: Path
) -> None:
    shelved(services.versions, services.engine, tmp_path, "codes", [{"r": 4}, {"r": 12}])
    wanted = {version: complete(client, version, "Once", stream=False) for version in ("codes@1", "codes@2")}
    assert wanted["codes@1"] != wanted["codes@2"]

    def ask(pool: ThreadPoolExecutor) -> Any:
        return [pool.submit(complete, client, "codes", "Once", stream=stream) for stream in (False, True)]

    def are_waiting(answers: list[Any]) -> bool:
        """Rather than the engine's number alone: an answer that has failed says why."""
        return not any(one.done() and one.result() for one in answers) and services.engine.waiting == len(answers)

    with ThreadPoolExecutor(4) as pool:
        with held(services.engine):
            before = ask(pool)
            eventually(lambda: are_waiting(before), "two requests wait")
            services.versions.go_live(services.versions.resolve("codes@2"))
            after = ask(pool)
            eventually(lambda: are_waiting(before + after), "four requests wait")
        assert [one.result(WAIT_SECONDS) for one in before] == [wanted["codes@1"]] * 2
        assert [one.result(WAIT_SECONDS) for one in after] == [wanted["codes@2"]] * 2


def test_a_version_that_goes_live_amid_an_answer_is_for_those_who_ask_then(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of the first token is the one in which it goes live, and the next request joins the batch."""
    engine, versions = services.engine, services.versions
    files = shelved(versions, engine, tmp_path, "codes", [{"r": 4}, {"r": 12}])
    wanted = [alone(engine, "Once", one, ANSWER) for one in files]
    assert wanted[0].tokens != wanted[1].tokens
    assert engine._serving is not None
    batch = engine._serving.scheduler._batch
    real, after = batch.step, list[Generation]()

    def step() -> Any:
        if not after:
            versions.go_live(versions.resolve("codes@2"))
            after.append(submit(engine, "Once", live(versions, "codes"), ANSWER))
        return real()

    monkeypatch.setattr(batch, "step", step)
    before = submit(engine, "Once", live(versions, "codes"), ANSWER)
    assert_as_alone(result_of(before).only, wanted[0])
    assert_as_alone(result_of(after[0]).only, wanted[1])


# All at once.


@dataclass
class LiveTraffic(Traffic):
    """Asks for what is live at that moment, in the engine's way and over HTTP, and loads and unloads by name."""

    services: Services
    client: TestClient
    texts: dict[tuple[str, str], str]  # by version and prompt, of those that cannot come out otherwise

    def ways(self) -> list[Callable[[], None]]:
        return [*super().ways(), self.over_http, self.over_http, self.load]

    def adapter(self) -> AdapterFiles | None:
        name = self.chooser.choice([None, "codes", "codes", "units"])
        return live(self.services.versions, name) if name else None

    def over_http(self) -> None:
        name, prompt = self.chooser.choice(["codes", "units"]), self.chooser.choice(PROMPTS)
        stream = self.chooser.random() < 0.5
        while (answered := complete(self.client, name, prompt, stream=stream)) is None:
            self.engine.run(lambda turn: turn.pause())
        version, text = answered
        assert version.startswith(f"{name}@")
        assert self.texts.get((version, prompt), text) == text

    def load(self) -> None:
        version = self.services.versions.resolve(f"codes@{self.chooser.randint(1, 3)}")
        loaded = self.services.loaded_adapters
        try:
            loaded.load(version.reference, version)
        except (InvalidParameterError, TooManyPinsError):  # another thread has it, or others have all places
            return
        assert version.key in self.engine.resident_adapters()
        loaded.unload(version.reference)


class GoingLive:
    """Versions go live, back and forth, for as long as there is traffic."""

    def __init__(self, services: Services) -> None:
        self.times = 0
        self._versions = services.versions
        self._is_over = threading.Event()
        self._chooser = random.Random(0)

    def go(self) -> None:
        while not self._is_over.wait(0.02):
            name = self._chooser.choice(["codes", "units"])
            self._versions.go_live(self._chooser.choice(not_live(self._versions, name)))
            self.times += 1

    def end(self) -> None:
        self._is_over.set()


def texts_of(services: Services, files: dict[str, AdapterFiles]) -> dict[tuple[str, str], str]:
    engine, texts = services.engine, {}
    for version, one in files.items():
        for prompt in PROMPTS:
            serial = alone(engine, prompt, one, ANSWER)
            if serial.sure() == len(serial.tokens):
                texts[version, prompt] = result_of(submit(engine, prompt, one, ANSWER)).only.text
    return texts


@pytest.mark.timeout(600)
def test_versions_go_live_amid_everything_and_no_answer_is_anothers(
    services: Services, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "_UNREAD", 3)
    engine, versions = services.engine, services.versions
    codes = shelved(versions, engine, tmp_path, "codes", [{"r": 4}, {"r": 12}, {"r": 4, "target_modules": ("q_proj",)}])
    units = shelved(versions, engine, tmp_path, "units", [{"r": 20}, {"r": 8}], seed=10)
    files = [*codes, *units]
    named = {one.reference: AdapterFiles.of(one) for one in versions.list()}
    known, texts = wanted_of(engine, files), texts_of(services, named)
    training, going = Training(engine, engine.run(lambda turn: trained(turn.base, lambda: None))), GoingLive(services)
    traffic = [
        LiveTraffic(engine, files, known, random.Random(seed), services, client, texts) for seed in range(THREADS)
    ]
    with ThreadPoolExecutor(THREADS + 2) as pool:
        beside = [pool.submit(training.go), pool.submit(going.go)]
        try:
            for one in [pool.submit(one.go) for one in traffic]:
                one.result(WAIT_SECONDS * max(1, ROUNDS))
        finally:
            training.end()
            going.end()
        for one in beside:
            one.result(WAIT_SECONDS)
    assert texts
    assert training.runs
    assert going.times > 5
    services.pinned.stop()
    services.pinned._thread.join(WAIT_SECONDS)
    assert len(engine._residency.pinned()) <= 1  # of codes, the version that was live when its thread last looked
    assert engine._residency.pinned() <= {one.key for one in codes}
    assert_nothing_is_held(engine, *files)
