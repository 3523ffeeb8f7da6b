"""llama.cpp's real server in the engine's place; run by `make test-backends`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from adapter_service.base_models.locating import locate
from benchmarks.kernels_files import write_gguf
from tests.backends import real_cases
from tests.backends.real_cases import Serial
from tests.backends.real_service import MODELS, PROMPTS, Client, assert_same, running, serial_answers
from tests.conftest import SMALL_BASE
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(900)
# Logits of the same float32 weights, with keys and values in float16 there: their differences are hundredths.
BOUND = 0.1


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Serial:
    return serial_answers(tmp_path_factory.mktemp("engine") / "state")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same numbers as the engine's; the package's own file would have activations in 8 bits multiplied."""
    target = tmp_path_factory.mktemp("gguf") / "base.gguf"
    (source,) = locate(SMALL_BASE).parts
    write_gguf(source, target, "F32")
    return str(target)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, gguf: str) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("llama") / "state", kind="llama.cpp", gguf=gguf) as running_client:
        yield running_client


def test_answers_are_the_engines_in_every_order(client: Client, serial: Serial) -> None:
    real_cases.adapters_answer_differently(serial)
    real_cases.one_after_the_other_in_every_order(client, serial, BOUND)


def test_answers_are_the_engines_all_at_once(client: Client, serial: Serial) -> None:
    real_cases.all_at_once(client, serial, BOUND)


def test_an_adapter_at_half_its_strength_is_something_else(client: Client, serial: Serial) -> None:
    """And the next answer has all of it again."""
    half = [client.complete("cold", prompt, lora_scale=0.5) for prompt in PROMPTS]
    assert half != [serial["cold", prompt].text for prompt in PROMPTS]
    assert_same(client.complete("cold", PROMPTS[1]), serial["cold", PROMPTS[1]], BOUND)
    assert client.complete("cold", PROMPTS[1], lora_scale=0.0) == client.complete("base", PROMPTS[1])


@pytest.mark.parametrize("case", real_cases.ALONE)
def test_it_is_as_at_the_engine(client: Client, case: real_cases.Case) -> None:
    case(client)


def test_a_version_goes_live_while_the_old_one_answers(tmp_path: Path, gguf: str) -> None:
    others = len(_children())
    with running(tmp_path / "state", kind="llama.cpp", gguf=gguf) as own:
        real_cases.a_version_goes_live_while_the_old_one_answers(own)
        eventually(lambda: len(_children()) == others + 1, "the replaced process has ended")
    eventually(lambda: len(_children()) == others, "so has the last one")


def test_the_packages_own_file_serves(tmp_path: Path) -> None:
    with running(tmp_path / "state", kind="llama.cpp") as own:
        assert own.complete("base", PROMPTS[0]).startswith(" Paris")


def test_metrics_of_both_are_in_one_place(client: Client) -> None:
    real_cases.metrics_of_both_are_in_one_place(client, "llama.cpp", "llamacpp:tokens_predicted_total")


def test_what_it_cannot_do_is_said(client: Client) -> None:
    for field, value in (("logprobs", 2), ("min_tokens", 3), ("foreign_script_penalty", 2.0)):
        body = {"model": "cold", "prompt": "x", "max_tokens": 4, field: value}
        response = client.http.post("/v1/completions", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, field), response.text


def test_one_that_was_killed_is_started_again(client: Client, serial: Serial) -> None:
    for child in _children():
        os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: not client.health()["backend"]["ok"], "it is noticed")
    client.wait_until_answering()
    for model in MODELS:
        assert_same(client.complete(model, PROMPTS[0]), serial[model, PROMPTS[0]], BOUND)


def _children() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [child for child in found if "adapter_service.backends.llama_child" in " ".join(child.cmdline())]
