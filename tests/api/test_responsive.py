"""Questions about the service are answered while its one model is busy."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from anyio.to_thread import current_default_thread_limiter
from fastapi.testclient import TestClient

from adapter_service.api.routes.sources import LOOKS
from adapter_service.api.services import Services
from adapter_service.engine.engine import Engine
from adapter_service.engine.turn import Turn
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.job import Job, Phase
from adapter_service.settings import SourceEntry
from tests.api.conftest import MakeServices, QuickPipeline, client_of
from tests.conftest import SMALL_BASE
from tests.waiting import READY_SECONDS, eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

WAIT_SECONDS = 30.0


class HoldsTheModel(QuickPipeline):
    """Training that never pauses until it is let go: nothing else gets at the model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.holds, self.let_go = threading.Event(), threading.Event()

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        context.report(phase=Phase.TRAINING, step=3, total=9)
        self._engine.run(self._work)
        return {"asked": dict(job.request)}

    def _work(self, turn: Turn) -> None:
        self.holds.set()
        assert self.let_go.wait(WAIT_SECONDS)


def test_health_and_status_are_answered_while_the_model_is_held_and_a_request_waits(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    made: list[HoldsTheModel] = []

    def make_pipeline(_settings: Any, engine: Engine, *_: Any) -> HoldsTheModel:
        made.append(HoldsTheModel(engine))
        return made[0]

    services = make_services(make_pipeline, load_base=lambda note: tiny_base)
    with client_of(services) as client, ThreadPoolExecutor(1) as pool:
        job_id = client.post("/adapter/train-lite", json={}).json()["job_id"]
        (training,) = made
        try:
            assert training.holds.wait(WAIT_SECONDS)
            body = {"prompt": "Hi", "adapter": "base", "max_new_tokens": 1}
            waiting = pool.submit(client.post, "/generate-lite", json=body)
            while services.engine.waiting == 0:
                assert not waiting.done(), waiting.result().text
            health = client.get("/health").json()
            metrics = client.get("/metrics").text
            status = client.get(f"/adapter/status/{job_id}").json()
            log = client.get(f"/adapter/logs/{job_id}/tail").json()
            assert not waiting.done()
        finally:
            training.let_go.set()
        assert waiting.result(WAIT_SECONDS).status_code == 200
    assert (health["status"], health["engine"]["working"], health["active_job"]) == ("ok", True, job_id)
    assert health["queues"]["requests"] == 1
    assert f'vllm:num_requests_waiting{{model_name="{SMALL_BASE}"}} 1.0' in metrics
    assert (status["phase"], status["step"], status["total_steps"]) == ("training", 3, 9)
    assert log["total"] == 1


def test_health_and_metrics_are_answered_while_every_thread_of_the_web_server_waits(services: Services) -> None:
    job = services.jobs.create({"source": "small"}, adapter="hindi", trace_id="t", queue_limit=9)
    with client_of(services) as client, ThreadPoolExecutor(60) as pool:
        with services.database.transaction():  # whoever wants to write waits
            asked = [pool.submit(client.post, f"/adapter/cancel/{job.id}") for _ in range(60)]
            while free_threads(client):
                assert not any(request.done() for request in asked)
            health, metrics = client.get("/health"), client.get("/metrics")
            assert not any(request.done() for request in asked)
        assert (health.status_code, metrics.status_code) == (200, 200)
        assert sorted(request.result(WAIT_SECONDS).status_code for request in asked) == [200] + 59 * [409]


def test_sources_that_stall_hold_up_nobody_else(make_services: MakeServices) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(60) as pool:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.jsonl"
        options = {"url": url, "allow_private": True, "retry_attempts": 0}
        source = SourceEntry(name="small", kind="http", options=options)
        with client_of(make_services(sources={"small": source})) as client:
            looks = [pool.submit(client.get, "/sources/small/preview") for _ in range(60)]
            eventually(lambda: waiting_looks(client) == 56, "four sources are looked at, and the others wait")
            assert client.get("/adapter/list").status_code == 200
            assert not any(look.done() for look in looks)
            silent.close()
            assert {look.result(WAIT_SECONDS).status_code for look in looks} == {502}


def waiting_looks(client: TestClient) -> int:
    assert client.portal is not None
    return client.portal.call(lambda: LOOKS.statistics().tasks_waiting)


def free_threads(client: TestClient) -> float:
    assert client.portal is not None
    return client.portal.call(lambda: current_default_thread_limiter().available_tokens)


def test_what_the_libraries_made_is_left_out_of_garbage_collections(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    # Measured: with them a full collection stops every thread for a quarter of a second and more.
    gc.unfreeze()
    services = make_services(load_base=lambda note: tiny_base)
    with client_of(services):
        services.engine.wait_until_ready(READY_SECONDS)
        while not gc.get_freeze_count():
            assert services.runner.alive
        assert gc.get_freeze_count() > 100_000
