"""A fleet of vLLM servers: who is asked, what is loaded where, and what a lost or restarted one changes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from adapter_service.adapters import VersionStore
from adapter_service.backends import vllm
from adapter_service.backends.dispatcher import Dispatcher
from adapter_service.backends.vllm import VllmFleet
from adapter_service.database import Database
from adapter_service.engine.generations import Generation
from adapter_service.engine.measures import Measures
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.errors import BackendError, BackendUnreachableError, InvalidParameterError, PromptTooLongError
from adapter_service.lora.layer import install
from adapter_service.settings import ServingSettings
from tests.backends.scripted import tokens_of
from tests.backends.vllm_double import END, VllmDouble
from tests.engine.conftest import write_files
from tests.waiting import eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


@pytest.fixture
def servers() -> Iterator[list[VllmDouble]]:
    doubles = [VllmDouble(), VllmDouble()]
    for double in doubles:
        double.start()
    yield doubles
    for double in doubles:
        double.waits = False
        double.stop()


Begin = Callable[..., Dispatcher]


def addresses(servers: list[VllmDouble]) -> dict[str, str]:
    return {server.name: server.url for server in servers}


@pytest.fixture
def begin(servers: list[VllmDouble], tiny_base: BaseModel, tmp_path: Path, monkeypatch: Any) -> Iterator[Begin]:
    """Starts a dispatcher over the fleet, and waits until both servers answer."""
    monkeypatch.setattr(vllm, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(vllm, "_AWAY_SECONDS", 0.1)
    begun: list[Dispatcher] = []
    install(tiny_base.model, keep=tiny_base.model.get_output_embeddings())

    def start(**options: Any) -> Dispatcher:
        fleet = VllmFleet(addresses(servers), tmp_path / "fleet", places_each=4, **options)
        dispatcher = Dispatcher(fleet, ServingSettings(), lambda _: ())
        dispatcher.start(tiny_base, Measures())
        begun.append(dispatcher)
        eventually(lambda: all(fault is None for _, fault in dispatcher.servers), "both answer", seconds=20)
        return dispatcher

    yield start
    for dispatcher in begun:
        dispatcher.stop(drain_seconds=0)


@pytest.fixture
def version(tiny_base: BaseModel, tmp_path: Path) -> Callable[[int], AdapterFiles]:
    versions = VersionStore(Database(tmp_path / "service.db"), tmp_path / "adapters")
    layers = install(tiny_base.model, keep=tiny_base.model.get_output_embeddings())

    def make(seed: int) -> AdapterFiles:
        written = write_files(layers, tmp_path, seed, r=4, alpha=12, rank_pattern={"q_proj": 2}, use_rslora=True)
        key = f"{seed:064x}"
        return AdapterFiles.of(versions.publish("taught", written.folder, key=key, job_id=None, base_id="x"))

    return make


def asked(dispatcher: Dispatcher, adapter: AdapterFiles | None = None, **options: Any) -> Generation:
    prompt = list(tokens_of("q"))
    ask = Ask(prompt, Sampling(**{"max_new_tokens": 100, **options}), adapter)
    dispatcher.check(ask)
    generation = Generation(ask)
    dispatcher.submit(generation)
    return generation


def test_the_base_and_an_adapter_answer_by_their_names_there(
    begin: Begin, servers: list[VllmDouble], version: Callable[[int], AdapterFiles]
) -> None:
    dispatcher = begin()
    assert asked(dispatcher).result(20).only.text == "smol says so"
    assert asked(dispatcher, version(1)).result(20).only.text == "taught@1.000000000000 says so"
    assert all(list(server.adapters) == ["taught@1.000000000000"] for server in servers)


def test_the_scale_is_in_b_and_all_layers_have_the_same_rank(
    begin: Begin, version: Callable[[int], AdapterFiles], tmp_path: Path
) -> None:
    """Two of rank 2 at alpha 12: by rsLoRA, the product is times 12 / sqrt(2)."""
    files = version(1)
    begin().load(files)
    folder = tmp_path / "fleet" / "taught@1.000000000000"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 4, "/base")
    given, written = (load_file(place / "adapter_model.safetensors") for place in (files.folder, folder))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    assert written[f"{name}.lora_A.weight"].shape[0] == 4
    product = written[f"{name}.lora_B.weight"] @ written[f"{name}.lora_A.weight"]
    expected = given[f"{name}.lora_B.weight"] @ given[f"{name}.lora_A.weight"] * (12 / 2**0.5)
    assert torch.allclose(product, expected, atol=1e-5)


def test_an_answer_goes_on_at_the_other_server(begin: Begin, servers: list[VllmDouble]) -> None:
    dispatcher = begin()
    for server in servers:
        server.breaks_after = 4
    assert asked(dispatcher).result(30).only.text == "smol says so"
    prompts = [body["prompt"] for server in servers for body in server.asked]
    assert sorted(map(len, prompts)) == [1, 5, 9] or sorted(map(len, prompts))[:2] == [1, 5]


def test_the_one_with_fewer_answers_under_way_is_asked(begin: Begin, servers: list[VllmDouble]) -> None:
    dispatcher = begin()
    for server in servers:
        server.waits = True
    generations = [asked(dispatcher) for _ in range(4)]
    eventually(lambda: sum(len(server.asked) for server in servers) == 4, "all are asked", seconds=20)
    assert [len(server.asked) for server in servers] == [2, 2]
    for server in servers:
        server.waits = False
    assert {one.result(20).only.text for one in generations} == {"smol says so"}


def test_a_restarted_server_gets_its_adapters_again(
    begin: Begin, servers: list[VllmDouble], version: Callable[[int], AdapterFiles]
) -> None:
    dispatcher = begin()
    dispatcher.load(version(1))
    first = servers[0]
    first.stop()
    eventually(lambda: dispatcher.servers[0][1] is not None, "its loss is seen", seconds=20)
    assert dispatcher.fault is None
    assert asked(dispatcher, version(1)).result(20).only.text.endswith("says so")
    first.start()
    eventually(lambda: dispatcher.servers[0][1] is None, "it is back", seconds=20)
    assert list(first.adapters) == ["taught@1.000000000000"]


def test_what_an_earlier_run_left_there_is_unloaded_and_others_are_not(
    begin: Begin, servers: list[VllmDouble], tmp_path: Path
) -> None:
    for server in servers:
        server.adapters |= {"old@1.abc": f"{tmp_path / 'fleet'}/old@1.abc", "theirs": "/somewhere/else"}
    begin()
    eventually(lambda: all(list(one.adapters) == ["theirs"] for one in servers), "it is unloaded", seconds=20)


def test_a_refusal_to_load_is_told_with_its_reason(
    begin: Begin, servers: list[VllmDouble], version: Callable[[int], AdapterFiles]
) -> None:
    dispatcher = begin()
    for server in servers:
        server.refuses = (500, "LoRA rank 32 is greater than max_lora_rank 16.")
    with pytest.raises(BackendError, match=r"LoRA rank 32 is greater than max_lora_rank 16\."):
        dispatcher.load(version(1))
    for server in servers:
        server.refuses = (404, "Not Found")
    with pytest.raises(BackendError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        dispatcher.load(version(2))


def test_an_error_within_a_stream_is_the_callers(begin: Begin) -> None:
    with pytest.raises(InvalidParameterError, match="top_p must be otherwise"):
        asked(begin(), do_sample=True, top_p=0.123).result(20)


def test_without_any_server_nobody_is_asked(begin: Begin, servers: list[VllmDouble]) -> None:
    dispatcher = begin()
    for server in servers:
        server.stop()
    eventually(lambda: dispatcher.fault is not None, "their loss is seen", seconds=20)
    with pytest.raises(BackendUnreachableError, match=r"no vLLM server answers \(127\.0\.0\.1"):
        asked(dispatcher)


def test_logprobs_are_the_servers(begin: Begin) -> None:
    tokens = asked(begin(), return_tokens=True, top_logprobs=2).result(20).only.tokens
    assert tokens is not None
    assert tokens.ids == [*tokens_of("smol says so"), END]
    assert set(tokens.logprobs) == {-0.25}
    assert tokens.top[0] == ((tokens.ids[0], -0.25), (7, -0.5))


def test_the_base_may_be_asked_through_zeros(begin: Begin, servers: list[VllmDouble], tmp_path: Path) -> None:
    dispatcher = begin(zero_adapter=True)
    assert asked(dispatcher).result(20).only.text == "base@0.000000000000 says so"
    zeros = load_file(tmp_path / "fleet" / "base@0.000000000000" / "adapter_model.safetensors")
    assert not any(tensor.any() for tensor in zeros.values())
    assert all(list(server.adapters) == ["base@0.000000000000"] for server in servers)


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (Ask([2], Sampling(), scale=0.5), InvalidParameterError),
        (Ask([2], Sampling(top_logprobs=21)), InvalidParameterError),
        (Ask([2] * 150, Sampling(max_new_tokens=100)), PromptTooLongError),
    ],
)
def test_what_it_cannot_do_is_refused(begin: Begin, ask: Ask, error: type[Exception]) -> None:
    with pytest.raises(error):
        begin().check(ask)


def test_an_unknown_base_is_told_with_those_that_there_are(
    servers: list[VllmDouble], tiny_base: BaseModel, tmp_path: Path
) -> None:
    fleet = VllmFleet(addresses(servers[:1]), tmp_path / "fleet", places_each=1, model="other")
    dispatcher = Dispatcher(fleet, ServingSettings(), lambda _: ())
    dispatcher.start(tiny_base, Measures())
    try:
        eventually(lambda: "has the bases: smol" in (dispatcher.fault or ""), "it is told", seconds=20)
    finally:
        dispatcher.stop(drain_seconds=0)


def test_their_metrics_have_their_names(begin: Begin, servers: list[VllmDouble]) -> None:
    found = begin().metrics()
    assert [name for name, _ in found] == [server.name for server in servers]
    assert all("vllm:num_requests_running" in text for _, text in found)


@pytest.mark.parametrize("said", ["<html>", "[]", '{"data": null}', '{"data": [{"object": "model"}]}', '{"data": [3]}'])
def test_one_that_talks_nonsense_is_left_out_alone(begin: Begin, servers: list[VllmDouble], said: str) -> None:
    dispatcher = begin()
    servers[0].models_said = said
    eventually(lambda: dispatcher.servers[0][1] is not None, "it is left out", seconds=20)
    assert dispatcher.servers[1][1] is None
    assert asked(dispatcher).result(20).only.text == "smol says so"
    servers[0].models_said = None
    eventually(lambda: dispatcher.servers[0][1] is None, "it is back", seconds=20)


def test_an_adapter_that_one_server_refuses_is_that_adapters_matter(
    begin: Begin, servers: list[VllmDouble], version: Callable[[int], AdapterFiles]
) -> None:
    dispatcher = begin()
    servers[0].refuses = (500, "LoRA rank 4 is greater than max_lora_rank 2.")
    files = version(1)
    dispatcher.load(files)
    looked = servers[0].looks
    eventually(lambda: servers[0].looks > looked + 2, "it is looked at again", seconds=20)
    assert [fault for _, fault in dispatcher.servers] == [None, None]
    for _ in range(3):
        assert asked(dispatcher, files).result(20).only.text.startswith("taught@1.")
    assert all(body["model"] == "smol" for body in servers[0].asked)


def test_a_folder_that_was_lost_is_written_again_for_a_restarted_server(
    begin: Begin, servers: list[VllmDouble], version: Callable[[int], AdapterFiles], tmp_path: Path
) -> None:
    dispatcher = begin()
    dispatcher.load(version(1))
    shutil.rmtree(tmp_path / "fleet")
    servers[0].adapters.clear()
    eventually(lambda: bool(servers[0].adapters), "it has the adapter again", seconds=20)


def test_a_caller_cannot_make_a_server_look_dead(begin: Begin, servers: list[VllmDouble]) -> None:
    dispatcher = begin()
    for server in servers:
        server.completes_with = (400, "stop_token_ids: EngineCore")
    with pytest.raises(InvalidParameterError, match="EngineCore"):
        asked(dispatcher).result(20)
    assert [fault for _, fault in dispatcher.servers] == [None, None]
    for server in servers:
        server.completes_with = (500, "EngineCore encountered an issue")
    with pytest.raises(BackendUnreachableError):
        asked(dispatcher).result(30)


def test_a_folder_stays_for_a_while_after_its_last_answer(
    begin: Begin, servers: list[VllmDouble], version: Callable[[int], AdapterFiles], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(vllm, "_SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(vllm, "_KEPT_SECONDS", 1.0)
    dispatcher, files = begin(), version(1)
    dispatcher.load(files)
    folder = tmp_path / "fleet" / "taught@1.000000000000"
    os.utime(folder, (0, 0))
    for held in ("pin", "unpin"):
        getattr(dispatcher, held)(files if held == "pin" else files.key)
    dispatcher._wait_for(lambda: dispatcher._server.unload(files.key))
    assert folder.is_dir()
    eventually(lambda: not folder.exists(), "it goes", seconds=20)
